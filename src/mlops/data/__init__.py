"""Raw images → checked table → splits → packed arrays → augmented batches."""
