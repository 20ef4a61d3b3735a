"""`netlab serve`: the tracer and the matrix behind a page on this machine."""
