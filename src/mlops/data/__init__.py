"""Turns raw images into a checked table, splits, packed arrays and augmented batches."""
