"""Why a disk is wrong: what each write was, what was durable when, what the cut lost, which promise that broke."""
