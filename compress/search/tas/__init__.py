"""Transformable architecture search (TAS): widths and depth learnt by gradient."""
