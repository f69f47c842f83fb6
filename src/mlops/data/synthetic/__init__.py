"""Draws traffic signs and renders them as camera images."""
