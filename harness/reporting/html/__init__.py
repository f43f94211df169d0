"""The HTML report: one file that opens from disk, asks the network for nothing, and shows all it is given as text."""
