"""Writes, reads and finds model files: checkpoints, ONNX exports, their calibration, and registered versions."""
