"""The scripts behind every figure that the documentation states; each writes a CSV into `results/`."""
