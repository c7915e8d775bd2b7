"""A study on a terminal."""

from __future__ import annotations

from rich.table import Table

from pocketvit.wrapped_tables import wrapped_tables

from . import words
from .collect import StudyResult


def study_tables(result: StudyResult, width: int) -> list[Table]:
    """Returns the table of a study, for each model and dataset, and the comparisons of accuracy.

    Args:
        result: the study.
        width: of the terminal, characters.
    """
    tables = []
    for model, data in dict.fromkeys((row.model, row.data) for row in result.rows):
        rows = [row for row in result.rows if (row.model, row.data) == (model, data)]
        names = [words.name_of(row, rows) for row in rows]
        tables += wrapped_tables(
            names, words.columns(rows, result.targets), width, title=f"{result.name}: {model} on {data}"
        )
        compared = [own for own in result.comparisons if (own.model, own.data) == (model, data)]
        if compared:
            columns = {
                "difference": [words.difference(own) for own in compared],
                "p, seeds": [words.outcome_of(own.seeds) for own in compared],
                "p, images": [words.outcome_of(own.images) for own in compared],
            }
            pairs = [f"{own.second} against {own.first}" for own in compared]
            title = f"Top-1 of the {compared[0].kind} files; p held to the table by Holm, * at most {result.alpha:g}"
            tables += wrapped_tables(pairs, columns, width, title=title)
    return tables
