"""Demonstrations of several parts together, on one machine."""
