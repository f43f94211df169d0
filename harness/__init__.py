"""crash-harness: cut the power on any program, let the kernel recover, check what it promised."""

__version__ = "0.1.0"
