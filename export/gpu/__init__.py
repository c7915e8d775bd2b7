"""Checks how a ``.tflite`` file answers on LiteRT's GPU path, beside the CPU and the model it came from."""
