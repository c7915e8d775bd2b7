"""Versions of ONNX's operators that files can be written with."""

from __future__ import annotations

OPSETS = range(17, 24)
"""The versions of ONNX's operators that files can be written with."""

OPSET = OPSETS[0]
"""The version that files are written with by default: the one that the most engines read."""
