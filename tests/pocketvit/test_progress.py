from __future__ import annotations

import io

import pytest
from rich.console import Console

from pocketvit.progress import ProgressBars

NOTE = (
    "round 2 of at most 15, best -0.2942: top-1 60.0 %, cost 73.6 %, C192→184 heads 36→35 qk 768→760 mlp 9216→9088; "
    "node 21, depth 3"
)


def bars(width: int) -> ProgressBars:
    """Returns bars on a made-up terminal; nothing is drawn until asked for."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=24, soft_wrap=True, highlight=False)
    return ProgressBars(console)


def drawn(shown: ProgressBars) -> list[str]:
    """Returns the lines now on the screen."""
    page = Console(file=io.StringIO(), width=shown.console.width, color_system=None, soft_wrap=True)
    with page.capture() as capture:
        page.print(shown.get_renderable())
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def scrolled(shown: ProgressBars) -> str:
    """Returns what was written above the bars."""
    file = shown.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_long_note_stands_below_and_leaves_the_bar_and_the_time_left(width: int) -> None:
    shown = bars(width)
    for done in (100, 1650):
        shown.report("search 2", done, 3300, NOTE)
    bar, *below = drawn(shown)
    assert "search 2" in bar
    assert " 50 % " in bar
    assert "left" in bar
    assert "round" not in bar
    assert " ".join(" ".join(below).split()) == NOTE
    assert all(len(line) <= width for line in (bar, *below))


def test_a_short_note_stands_beside_the_bar() -> None:
    shown = bars(120)
    shown.report("fine-tune", 1, 8, "epoch 1/8, loss 2.300, held-out 9.1%")
    (line,) = drawn(shown)
    assert line.endswith("epoch 1/8, loss 2.300, held-out 9.1%")


def test_a_note_that_was_below_stays_there() -> None:
    shown = bars(80)
    shown.report("search 1", 1, 8, NOTE)
    shown.report("search 1", 2, 8, "short")
    assert [line.strip() for line in drawn(shown)[1:]] == ["short"]


def test_marks_in_a_note_are_no_markup() -> None:
    shown = bars(160)
    shown.report("left out", 1, 2, "skipped [bold]a[/bold].png")
    assert "[bold]a[/bold].png" in drawn(shown)[0]


def test_a_stage_that_has_ended_scrolls_away_when_the_next_starts() -> None:
    shown = bars(160)
    shown.report("fine-tune", 8, 8, "epoch 8/8")
    assert scrolled(shown) == ""
    for number in range(1, 31):
        shown.report(f"search {number}", 1, 2)
        shown.report(f"recover {number}", 1, 1)
        shown.report(f"search {number}", 2, 2)
    assert len(drawn(shown)) <= 2
    text = scrolled(shown)
    assert text.count("fine-tune") == text.count("epoch 8/8") == 1
    assert all(f"search {number} " in text for number in range(1, 30))


def test_bars_that_are_still_at_work_stay() -> None:
    shown = bars(160)
    shown.report("export", 1, 5)
    shown.report("verify", 1, 5)
    assert [line.split()[1] for line in drawn(shown)] == ["export", "verify"]


def test_each_of_several_devices_has_one_bar_in_its_own_place() -> None:
    shown = bars(120)
    for stage in ("pi4: start", "phone: measure", "pi4: measure", "ssh:pi@attic: start"):
        shown.report(stage, 1, 4, "digits.onnx")
    lines = drawn(shown)
    assert [line.split(": ")[0].split()[-1] for line in lines] == ["pi4", "phone", "ssh:pi@attic"]
    assert "pi4: measure" in lines[0]
    assert len({line.index("━") for line in lines}) == 1
    assert all(len(line) <= 120 for line in lines)
    assert scrolled(shown) == ""  # what a device left in the middle says nothing


def test_what_a_device_has_done_scrolls_away_and_what_failed_is_said() -> None:
    shown = bars(120)
    shown.report("pi4: start", 4, 4)
    shown.report("phone: measure", 1, 4)
    shown.report("pi4: measure", 1, 4)
    shown.report("phone: failed", 1, 1, "it was unplugged")
    shown.report("pi4: energy", 1, 4)
    text = scrolled(shown)
    assert text.count("pi4: start") == text.count("phone: failed") == text.count("it was unplugged") == 1
    assert "measure" not in text
    assert [line.split()[1] for line in drawn(shown)] == ["pi4:"]
