from __future__ import annotations

import pytest
from rich.text import Text

from device_bench.gate.duel import Duel, DuelRound, Rules
from pocketvit.cli.tables.gate import comparison_tables
from tests.device_bench.gate.test_judge import BASE


def compared(*ratios: float) -> str:
    rounds = tuple(DuelRound((0.002, 0.002), (0.002 * ratio, 0.002 * ratio)) for ratio in ratios)
    *_, text = comparison_tables(BASE, BASE, Duel(Rules(max_slowdown=0.0), 1, 0, (rounds,), 1.0))
    assert isinstance(text, Text)
    return text.plain


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((0.31,) * 9, "0.31{x}, the new file is faster"),
        ((0.31,) * 40, "0.31{x} [0.31, 0.31], 99 % interval, the new file is faster"),
        ((3.0,) * 9, "3.00{x}, the new file is slower"),
        ((0.98, 1.02) * 20, "no difference was shown"),
        ((0.31,) * 3, "no difference was shown"),
    ],
)
def test_a_comparison_says_which_file_is_faster_as_soon_as_that_is_shown(
    ratios: tuple[float, ...], expected: str
) -> None:
    assert expected.format(x=chr(215)) in compared(*ratios)
    assert "inf" not in compared(*ratios)
