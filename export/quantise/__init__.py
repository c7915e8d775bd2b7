"""Quantisation: calibration, recipes, the choice between them, rounding and training under it."""
