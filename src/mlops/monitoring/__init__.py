"""Records predictions and the images they belong to."""
