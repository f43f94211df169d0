"""One guarantee a file, named for it; the first line of its docstring says what is promised."""
