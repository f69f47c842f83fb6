"""Source root; the package is imported as `src.mlops`."""
