"""Registers versions of the model and assigns them to stages."""
