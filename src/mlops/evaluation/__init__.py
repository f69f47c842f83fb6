"""Measures a model and draws the results."""
