"""Watches a deployed model: the prediction log, and the detection of drift in it."""
