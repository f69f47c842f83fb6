"""Benchmarks for all measurements in the documentation. Each writes a CSV file to `results/`."""
