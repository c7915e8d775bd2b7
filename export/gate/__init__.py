"""Decides by statistics whether a file may be released: its limits, the bounds of its loss, and how many images."""
