"""Other services for the same model, written as their own guides recommend, for `benchmarks.serving`."""
