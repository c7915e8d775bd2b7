"""Finds what in a ``.tflite`` file an engine refuses, computes wrongly, or computes slowly."""
