"""The files of JSON lines in a run folder, which one room writes and another reads."""

from __future__ import annotations

from .documents import JsonLines

STEPS_JOURNAL = JsonLines("pocketvit.journal", 1)
"""A search in one go: one line for each step, and at the end the plan and the units that are kept."""

TREE_JOURNAL = JsonLines("pocketvit.tree", 1)
"""One round of a tree search: one line for each operation."""

TAS_JOURNAL = JsonLines("pocketvit.tas", 1)
"""A transformable architecture search: one line for each record of its probabilities."""

RUN_LOG = JsonLines()
"""The stages and warnings of a run, each with its time."""
