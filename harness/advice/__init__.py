"""Which fsync a workload lacks, and which does nothing: it is run again with calls added or left out, and judged."""
