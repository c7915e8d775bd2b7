import json

import pytest

from device_bench.report.plots.panels import AFTER, render
from device_bench.report.plots.tas import (
    COLUMNS,
    SHADES,
    cost_over_time,
    odds_over_time,
    panels,
    read_tas,
    widths_over_time,
)
from runtime import ArtifactError

CANDIDATES = {"embed": [64, 128], "depth": [2, 3], "heads": [[1, 2]] * 3, "mlp": [[64, 128, 256]] * 3}
HEADER = {
    "schema": "pocketvit.tas",
    "schema_version": 1,
    "settings": {"cost": "macs", "limit": 600, "total": 1000, "steps": 100, "tas": {"tolerance": 0.05, "lr": 0.1}},
    "candidates": CANDIDATES,
}


def moment(step, lean):
    """A line in which the second candidate of everything has the odds ``lean``."""
    return {
        "step": step,
        "temperature": 1.0,
        "train_loss": 0.5 if step else None,
        "valid_loss": 0.6 if step else None,
        "cost": 1000 - step,
        "expected_cost": 800.5 - step,
        "odds": {
            "embed": [1 - lean, lean],
            "depth": [1 - lean, lean],
            "heads": [[1 - lean, lean]] * 3,
            "mlp": [[1 - lean, lean, 0.0], [1 - lean, 0.0, lean], [0.0, 0.0, 1.0]],
        },
    }


LINES = [HEADER, *(moment(step, step / 200) for step in range(0, 101, 10))]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tas.jsonl"


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class Axes:
    """Remembers the shades it is told to draw, and takes everything else."""

    def __init__(self):
        self.bars, self.lines, self.ticks = [], {}, []

    def broken_barh(self, spans, rows, *, facecolors, alpha, linewidth):
        ((start, width),) = spans
        assert facecolors == AFTER
        self.bars.append((round(rows[0] + 0.42), start, width, alpha))

    def plot(self, xs, ys, label=None, **style):
        self.lines[label] = list(zip(xs, ys, strict=True))

    def set_yticks(self, places, names, **style):
        self.ticks = names

    def __getattr__(self, name):
        return lambda *arguments, **options: None

    def shade(self, row, step):
        shades = [a for r, start, width, a in self.bars if r == row and start <= step < start + width]
        assert len(shades) <= 1
        return shades[0] if shades else 0.0


def drawn(draw):
    axes = Axes()
    draw(axes)
    return axes


def test_a_journal_is_read_as_it_was_written(path):
    log = read_tas(write(path, LINES))
    assert (log.unit, log.limit, log.total, log.tolerance) == ("macs", 600, 1000, 0.05)
    assert log.candidates.mlp == ((64, 128, 256),) * 3
    assert [own.step for own in log.moments] == list(range(0, 101, 10))
    assert log.moments[0].train_loss is None
    assert log.moments[-1].odds.embed == (0.5, 0.5)


def test_odds_are_shades_that_last_to_the_next_moment(path):
    axes = drawn(odds_over_time(read_tas(write(path, LINES)), "embed"))
    assert axes.ticks == ["64", "128"]
    for step in range(0, 100, 10):
        assert axes.shade(0, step) == pytest.approx(1 - step / 200, abs=0.51 / SHADES)
        assert axes.shade(1, step + 9) == pytest.approx(step / 200, abs=0.51 / SHADES)
    assert axes.shade(1, 100) == 0.5


def test_widths_are_means_as_shares_of_the_whole_block_by_block(path):
    axes = drawn(widths_over_time(read_tas(write(path, LINES)), "mlp"))
    assert axes.ticks == ["1", "2", "3"]
    assert axes.shade(0, 100) == pytest.approx((0.5 * 64 + 0.5 * 128) / 256, abs=0.51 / SHADES)
    assert axes.shade(1, 100) == pytest.approx((0.5 * 64 + 0.5 * 256) / 256, abs=0.51 / SHADES)
    assert axes.shade(2, 100) == 1.0
    assert len([bar for bar in axes.bars if bar[0] == 2]) == 1  # equal neighbours are one


def test_cost_is_a_share_of_the_baselines(path):
    axes = drawn(cost_over_time(read_tas(write(path, LINES))))
    assert axes.lines["most likely plan"][-1] == (100, pytest.approx(90.0))
    assert axes.lines["expected"][0] == (0, pytest.approx(80.05))


def test_long_searches_are_drawn_from_their_first_to_their_last_moment(path):
    lines = [HEADER, *(moment(step, (step % 2) / 2) for step in range(1001))]
    axes = drawn(odds_over_time(read_tas(write(path, lines)), "depth"))
    starts = sorted({start for _, start, _, _ in axes.bars})
    assert len(starts) <= COLUMNS
    assert starts[0] == 0
    assert max(start + width for _, start, width, _ in axes.bars) > 1000


def test_every_panel_is_a_picture_and_the_same_each_time(path):
    log = read_tas(write(path, LINES))
    assert [name for name, _ in panels(log)] == ["cost", "embed", "depth", "heads", "mlp"]
    for name, draw in panels(log):
        svg = render(draw, salt=name)
        assert svg == render(draw, salt=name)
        assert "step" in svg
        assert AFTER in svg


def test_no_journal_and_one_without_a_record_are_nothing_and_a_line_cut_short_is_left_out(path):
    assert read_tas(path) is None
    assert read_tas(write(path, LINES[:1])) is None
    whole = read_tas(write(path, LINES[:4]))
    path.write_text(path.read_text() + json.dumps(LINES[4])[:30])
    assert read_tas(path) == whole
    one = read_tas(write(path, LINES[:2]))
    assert all("<svg" in render(draw, salt=name) for name, draw in panels(one))


@pytest.mark.parametrize(
    "lines",
    [
        [HEADER | {"schema": "pocketvit.tree"}, LINES[1]],
        [HEADER | {"schema_version": 2}, LINES[1]],
        [HEADER | {"settings": {}}, LINES[1]],
        [HEADER | {"settings": HEADER["settings"] | {"limit": 0}}, LINES[1]],
        [HEADER | {"settings": HEADER["settings"] | {"total": "many"}}, LINES[1]],
        [HEADER | {"candidates": {"embed": [8]}}, LINES[1]],
        [HEADER, {}],
        [HEADER, 5],
        [HEADER, LINES[1] | {"step": "1"}],
        [HEADER, LINES[1] | {"odds": LINES[1]["odds"] | {"embed": [1.0]}}],
        [HEADER, LINES[1] | {"odds": LINES[1]["odds"] | {"mlp": [[1.0]] * 3}}],
        [5],
    ],
)
def test_a_damaged_journal_is_refused(path, lines):
    write(path, lines)
    with pytest.raises(ArtifactError, match=r"tas\.jsonl"):
        read_tas(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"null\n", b"{\n", b"\n"])
def test_what_is_no_journal_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"tas\.jsonl.*(cannot be read|is not valid JSON|no object)"):
        read_tas(path)
