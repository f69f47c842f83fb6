"""Trains a model on packed images and writes a checkpoint."""
