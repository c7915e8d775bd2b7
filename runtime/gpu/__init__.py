"""Runs ``.tflite`` files on LiteRT's GPU path in another process, on a GPU or on a driver that computes on the CPU."""
