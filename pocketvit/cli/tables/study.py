"""A study as tables on a terminal."""

from __future__ import annotations

from rich.table import Table

from device_bench.columns import terminal_columns
from pocketvit.study.results.collect import StudyResult
from pocketvit.study.results.columns import COMPARISON_COLUMNS, columns, name_of

from .wrapped import wrapped_tables


def study_tables(result: StudyResult, width: int) -> list[Table]:
    """Returns the table of a study for each model and dataset, and the comparisons of accuracy.

    Args:
        result: the study.
        width: width of the terminal, characters.
    """
    tables = []
    compared_columns = [column for column in COMPARISON_COLUMNS if "report" not in column.views]
    for model, data in dict.fromkeys((row.model, row.data) for row in result.rows):
        rows = [row for row in result.rows if (row.model, row.data) == (model, data)]
        names = [name_of(row, rows) for row in rows]
        cells = terminal_columns(columns(result.targets), rows)
        tables += wrapped_tables(names, cells, width, title=f"{result.name}: {model} on {data}")
        compared = [own for own in result.comparisons if (own.model, own.data) == (model, data)]
        if compared:
            pairs = [f"{own.second} against {own.first}" for own in compared]
            title = f"Top-1 of the {compared[0].kind} files; p held to the table by Holm, * at most {result.alpha:g}"
            tables += wrapped_tables(pairs, terminal_columns(compared_columns, compared), width, title=title)
    return tables
