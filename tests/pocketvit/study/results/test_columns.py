"""The columns of a study, and the same figures as CSV and JSON."""

import csv
import doctest

from device_bench.columns import terminal_columns
from device_bench.metrics import METRICS
from pocketvit.study.results import columns
from pocketvit.study.results.collect import OnTarget, StudyResult, StudyRow
from pocketvit.study.results.spread import Spread, spread
from pocketvit.study.results.writing import as_csv, body


def on(target: str, tier: str | None, **known: Spread) -> OnTarget:
    keys = [number.key for metric in METRICS.values() for number in metric.averaged]
    return OnTarget(target, False, {key: known.get(key, spread([], "It was not measured.")) for key in keys}, tier)


def row(method: str, *targets: OnTarget) -> StudyRow:
    one = spread([1000.0], "")
    return StudyRow(
        method, "vit", "digits", "", "fp32", (0, 1), spread([0.98, 0.99], ""), one, one, one, one, one, one, (),
        targets, ("pocketvit run",),
    )  # fmt: skip


MEASURED = on("cpu", "measured", joules_per_image=spread([0.01, 0.02], ""), latency_s=spread([0.001], ""))
ESTIMATED = on("cpu", "estimated", joules_per_image=spread([0.01], ""), images_per_s=spread([100.0], ""))


def test_examples_in_docstrings_hold() -> None:
    result = doctest.testmod(columns)
    assert result.attempted > 0
    assert result.failed == 0


def test_an_energy_that_was_not_measured_says_so() -> None:
    rows = [row("one", MEASURED), row("other", ESTIMATED)]
    cells = terminal_columns(columns.columns(["cpu"]), rows)
    assert cells["energy"] == ["15.0 mJ ± 7.07 mJ", "10.0 mJ estimated"]
    assert cells["images/s"] == ["–", "100"]  # noqa: RUF001
    assert cells["top-1"] == ["98.5 % ± 0.7 %"] * 2
    assert "instructions" not in cells


def test_several_targets_have_columns_of_their_own_name() -> None:
    assert "latency on cpu" in terminal_columns(columns.columns(["cpu", "pi"]), [row("one", MEASURED)])


def test_csv_and_json_hold_every_number_by_its_key() -> None:
    result = StudyResult("s", (0, 1), 1, 0.05, "", "", (row("one", MEASURED),), (), (), (), {}, {}, ())
    (line,) = csv.DictReader(as_csv(result).splitlines())
    assert (float(line["joules_per_image_mean"]), line["joules_per_image_n"]) == (0.015, "2")
    assert (line["target"], line["energy_tier"], line["instructions_mean"]) == ("cpu", "measured", "")
    (target,) = body(result)["rows"][0]["targets"]
    assert target["latency_s"]["mean"] == 0.001
    assert (target["target"], target["energy_tier"], target["emulated"]) == ("cpu", "measured", False)
    assert target["instructions"]["reason"] == "It was not measured."
