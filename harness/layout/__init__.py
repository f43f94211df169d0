"""What lies where on a file system: each block that a log wrote, named by what it is, whose it is, and where in it."""
