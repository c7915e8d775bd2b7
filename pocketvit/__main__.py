"""Lets ``python -m pocketvit`` do what ``pocketvit`` does."""

from .cli import main

main()
