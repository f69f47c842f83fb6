"""Loads model files and classifies images."""
