"""Descriptions and states of machines."""
