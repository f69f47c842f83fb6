"""Renders traffic signs and passes them through a simulated car camera."""
