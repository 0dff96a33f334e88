"""isthmus.yaml → core structs, with every fault reported at once, each at its line and column."""
