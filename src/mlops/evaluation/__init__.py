"""Measures a model and plots the results."""
