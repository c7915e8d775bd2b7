"""A report names the files whose loss is not proven, the near ties, and the classes that lost the most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from device_bench.report.summary import summarise
from device_bench.report.tables import class_losses, parity
from runtime import ClassLoss, read_artifact, write_artifact


def with_losses(run: Path) -> str:
    """Gives one file of the run a loss, and returns its name."""
    file = next((run / "artifacts").glob("*int8.tflite"))
    artifact = read_artifact(file)
    classes = [ClassLoss(f"class {number}", 50, number, 1) for number in range(14)]
    write_artifact(
        file,
        replace(
            artifact,
            parity=replace(
                artifact.parity, top1=0.96, reference_top1=0.97, top1_agreement=0.98, lost=9, gained=4, near_ties=20,
                near_tie_changes=7,
            ),
            unproven=f"It is not proven that {file.name} loses at most 0.5 points of top-1.",
            drop_bounds=(-0.25, 2.125),
            class_losses=tuple(classes),
        ),
    )  # fmt: skip
    return file.name


def test_the_classes_that_lost_the_most_come_first(run: Path) -> None:
    assert class_losses(summarise(run)) is None
    name = with_losses(run)
    section = class_losses(summarise(run))
    assert section is not None
    rows = section.blocks[-1].rows
    assert [row.name for row in rows] == [name] * 10
    assert [[cell.value for cell in row.cells] for row in rows[:2]] == [
        ["class 13", "50", "13", "1"],
        ["class 12", "50", "12", "1"],
    ]


def test_parity_has_the_bounds_of_the_loss_and_the_near_ties(run: Path) -> None:
    name = with_losses(run)
    section = parity(summarise(run))
    assert section is not None
    made = section.blocks[-1]
    headings = [heading.text for heading in made.headings]
    (row,) = [own for own in made.rows if own.name == name]
    cells = dict(zip(headings, row.cells, strict=True))
    assert cells["Points of top-1 lost"].line == "1.00 [-0.25, 2.12]"
    assert cells["Other answers, near ties"].value == "10, 7"


def test_an_unproven_loss_is_a_note(run: Path) -> None:
    name = with_losses(run)
    assert f"It is not proven that {name} loses at most 0.5 points of top-1." in summarise(run).notes
