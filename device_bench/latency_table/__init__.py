"""Latency tables: which files are timed for one, and how it is fitted to their times."""
