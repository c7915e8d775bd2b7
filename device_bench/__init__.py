"""Exported files measured on a target, kept as raw values, and told as a report. Needs numpy and one engine."""
