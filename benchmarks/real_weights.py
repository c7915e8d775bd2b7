"""What cuts without training cost a model with published weights: several ways of cutting at several budgets.

    pip install torch-pruning
    python benchmarks/real_weights.py --model vit_small_patch14_dinov2 --img-size 98 --checkpoint FILE \
        --data fashion-mnist [--photos CALIBRATION TEST] [--draws 3]
    python benchmarks/real_weights.py … --only units,l2 --budgets 0.75,0.5 --treatments cut,reconstructed
    python benchmarks/real_weights.py … --report

The checkpoint is a classifier of the dataset. Photographs are pictures without labels in two folders. Each way cuts the
model to shares of its MACs on a few training images of the dataset, and again on photographs. The model is judged as
cut, after reconstruction by least squares on the same images, and after a recovery without labels of at most
``--recovery-minutes``: top-1 on the dataset, agreement with the whole model, and the mean cosine of the head's input,
for which a narrower stream is first mapped back to the whole model's coordinates. Files of the first draw on the first
set are timed in turns with the whole model's. Torch-Pruning moves all widths together and cannot land on a budget, so
two models around it are judged, and a figure is read off the line between them.

``units`` and ``torch-pruning`` see the labels of the dataset's calibration images; on photographs they see classes
that are drawn from the whole model's answers. The other ways see no labels.

Every cell is one line of ``cells.jsonl`` in ``--out``. The same call goes on where a killed one was, and ``--report``
prints the tables of the lines there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from cutting.answers import answers_of, fidelity, top1_of
from cutting.cut_model import CutInputs, CutModel
from cutting.lines import CutLine, Line, Side, Spot, TimeLine, Treatment, WholeLine, add_line, read_lines
from cutting.memory import Spent, measured
from cutting.options import add_subject_options
from cutting.recovery import recover
from cutting.subject import Subject, load_subject
from cutting.table import PRECISIONS, TREATMENTS, tables
from cutting.times import time_models
from cutting.ways import WAYS, Way, inputs_for

from compress.budget import Budget, parse_budget
from compress.model.load import ModelSpec
from runtime import PlanError, PocketVitError, macs


@dataclass(frozen=True)
class Asked:
    """What to measure.

    Attributes:
        ways: names of ways of cutting.
        shares: budgets as shares of the whole model's MACs.
        treatments: what happens to models after the choice.
        calibrated_on: names of the sets to cut on.
        draws: draws of calibration images.
        minutes: wall time of each recovery.
        rounds: timed runs of each file; 0 times nothing.
    """

    ways: tuple[str, ...]
    shares: tuple[float, ...]
    treatments: tuple[Treatment, ...]
    calibrated_on: tuple[str, ...]
    draws: int
    minutes: float
    rounds: int


def main(words: Sequence[str] | None = None) -> None:
    """Measures what is missing and prints the tables."""
    parser = _parser()
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    spec = ModelSpec(options.model, img_size=options.img_size, checkpoint=options.checkpoint)
    try:
        asked = _asked(options)
        photos = tuple(options.photos) if options.photos else None
        subject = load_subject(
            spec,
            options.data,
            photos,
            calibration_images=options.calibration_images,
            test_images=options.test_images,
            test_photos=options.test_photos,
        )
        cells = options.out / "cells.jsonl"
        if not options.report:
            for name in [name for name in asked.ways if not WAYS[name].installed]:
                print(f"{WAYS[name].title} is left out, since the module {WAYS[name].package} is not installed.")
            work(subject, asked, cells)
        print(tables(read_lines(cells, subject.digest)))
    except PocketVitError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_subject_options(parser)
    parser.add_argument("--draws", type=int, default=1, help="draws of calibration images")
    parser.add_argument("--test-images", type=int, default=2000, help="of the dataset, at most")
    parser.add_argument("--test-photos", type=int, default=500, help="photographs to test on, at most")
    parser.add_argument("--calibrate", default="", help="sets to cut on, comma-separated: data, photos; default all")
    parser.add_argument("--only", default=",".join(WAYS), help="ways of cutting, comma-separated")
    parser.add_argument("--budgets", default="0.9,0.75,0.6,0.5,0.35", help="shares of the MACs, comma-separated")
    parser.add_argument("--treatments", default=",".join(TREATMENTS), help="comma-separated")
    parser.add_argument("--recovery-minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=200, help="timed runs of each file; 0 times nothing")
    parser.add_argument("--threads", type=int, default=2, help="of everything but the timed files, which have one")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/real-weights"))
    parser.add_argument("--report", action="store_true", help="print the tables and measure nothing")
    return parser


def _asked(options: argparse.Namespace) -> Asked:
    sets = ("data", "photos") if options.photos else ("data",)
    if options.draws < 1:
        raise PlanError("--draws must be at least 1", got=options.draws)
    treatments = _known("--treatments", options.treatments, TREATMENTS)
    return Asked(
        ways=_known("--only", options.only, tuple(WAYS)),
        shares=tuple(map(_share, _words(options.budgets))),
        treatments=treatments,  # type: ignore[arg-type]
        calibrated_on=_known("--calibrate", options.calibrate or ",".join(sets), sets),
        draws=options.draws,
        minutes=options.recovery_minutes,
        rounds=options.rounds,
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise PlanError("--budgets are shares of the MACs", expected="numbers between 0 and 1", got=text)
    return share


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _known(option: str, text: str, names: Sequence[str]) -> tuple[str, ...]:
    unknown = [word for word in _words(text) if word not in names]
    if unknown:
        raise PlanError(f"{option} has an unknown name", expected=", ".join(names), got=", ".join(unknown))
    return tuple(_words(text))


def work(subject: Subject, asked: Asked, cells: Path) -> None:
    """Measures every cell that is not among the lines of a file yet, and appends it."""
    done = read_lines(cells, subject.digest)
    if not any(isinstance(line, WholeLine) for line in done):
        add_line(cells, whole_line(subject))
    for name in asked.calibrated_on:
        for draw in range(asked.draws):
            for way in (WAYS[word] for word in asked.ways if WAYS[word].installed):
                for line in missing(subject, asked, way, name, draw, done):
                    add_line(cells, line)
                    print(_progress(line, subject), flush=True)


def whole_line(subject: Subject) -> WholeLine:
    """Returns the line of the whole model."""
    stack = subject.tests["data"]
    assert stack.labels is not None
    return WholeLine(
        "whole",
        subject.digest,
        f"{subject.spec.name}, {'x'.join(map(str, subject.model.plan.img_size))} px",
        subject.macs,
        {name: len(own) for name, own in subject.tests.items()},
        top1_of(subject.answers["data"], stack.labels),
    )


def missing(
    subject: Subject, asked: Asked, way: Way, calibrated_on: str, draw: int, done: Sequence[Line]
) -> Iterator[Line]:
    """Yields the lines of a way and a draw that are not among ``done``; what they share is made once, when needed."""
    bench = Bench(subject, way, calibrated_on, draw)
    for share in asked.shares:
        spot = Spot(subject.digest, calibrated_on, way.name, share, draw)
        place = Place(bench, spot, parse_budget(f"macs={share}", subject.model.plan))
        try:
            yield from _missing_at(place, asked, done)
        except PlanError as error:
            print(f"{_where(spot)} is left out: {error}", flush=True)


def _missing_at(place: Place, asked: Asked, done: Sequence[Line]) -> Iterator[Line]:
    """Yields the lines of one budget that are not among ``done``."""
    cut = {(line.spot, line.treatment, line.minutes) for line in done if isinstance(line, CutLine)}
    timed = {(line.spot, line.precision) for line in done if isinstance(line, TimeLine)}
    spot, bench = place.spot, place.bench
    for treatment in asked.treatments:
        possible = treatment != "reconstructed" or bench.way.reconstructs
        minutes = asked.minutes if treatment == "recovered" else 0.0
        if possible and (spot, treatment, minutes) not in cut:
            yield place.judged(treatment, minutes)
    first = spot.calibrated_on == asked.calibrated_on[0] and not spot.draw
    for precision in PRECISIONS if asked.rounds and first else ():
        if (spot, precision) not in timed:
            models = [own.model for own in place.plain]
            whole, images = bench.subject.model, bench.inputs.images
            yield time_models(spot, models, whole, images, precision, place.budget.limit, asked.rounds)


@dataclass(frozen=True)
class Bench:
    """One way of cutting with one draw of calibration images."""

    subject: Subject
    way: Way
    calibrated_on: str
    draw: int

    @cached_property
    def inputs(self) -> CutInputs:
        """The model and the calibration images."""
        subject = self.subject
        stack = subject.pictures(self.calibrated_on).calibration(subject.calibration_images, self.draw)
        return inputs_for(subject.spec, subject.model, stack, self.draw)

    @cached_property
    def analysis(self) -> tuple[Any, Spent]:
        """The way's analysis of the whole model, and what it took."""
        inputs = self.inputs
        with measured() as spent:
            found = self.way.analyse(inputs)
        return found, spent


@dataclass(frozen=True)
class Place:
    """One budget of a bench."""

    bench: Bench
    spot: Spot
    budget: Budget

    @cached_property
    def choice(self) -> tuple[Any, Spent]:
        """What the way cuts to meet the budget, and what choosing took."""
        analysis, _ = self.bench.analysis
        with measured() as spent:
            found = self.bench.way.choose(self.bench.inputs, analysis, self.budget)
        return found, spent

    @cached_property
    def plain(self) -> tuple[CutModel, ...]:
        """The models as cut."""
        return self.cut(mend=False)[0]

    def cut(self, mend: bool) -> tuple[tuple[CutModel, ...], Spent]:
        """Returns the cut models, and what cutting them took."""
        chosen, _ = self.choice
        with measured() as spent:
            made = self.bench.way.cut(self.bench.inputs, chosen, mend)
        return made, spent

    def judged(self, treatment: Treatment, minutes: float) -> CutLine:
        """Cuts, treats and judges."""
        subject, way, recovered = self.bench.subject, self.bench.way, treatment == "recovered"
        made, cut = self.cut(mend=treatment != "cut" and way.reconstructs)
        learnt: list[int] = []
        with measured() as recovery:
            if recovered:
                pictures = subject.pictures(self.spot.calibrated_on)
                trained = [recover(own, subject.model, pictures, minutes, self.spot.draw) for own in made]
                made = tuple(replace(own, model=model) for own, (model, _) in zip(made, trained, strict=True))
                learnt = [count for _, count in trained]
        spent = [self.bench.analysis[1], self.choice[1], cut]
        return CutLine(
            "cut",
            self.spot,
            treatment,
            minutes,
            self.budget.limit,
            tuple(judge(subject, own) for own in made),
            *(round(own.seconds, 2) for own in spent),
            recovery_s=round(recovery.seconds, 2) if recovered else 0.0,
            recovery_images=tuple(learnt),
            peak_bytes=max(own.peak_bytes for own in spent),
        )


def judge(subject: Subject, cut: CutModel) -> Side:
    """Compares a cut model with the whole one on every set of pictures."""
    found = {}
    for name, stack in subject.tests.items():
        own = answers_of(cut.model, stack.images)
        found[name] = fidelity(own, subject.answers[name], stack.labels, cut.back, cut.offset)
    return Side(macs(cut.model.plan), cut.model.plan.embed_dim, found)


def _where(spot: Spot) -> str:
    return f"{spot.calibrated_on}, draw {spot.draw}: {WAYS[spot.way].title} at {spot.share:g}"


def _progress(line: Line, subject: Subject) -> str:
    assert not isinstance(line, WholeLine)
    where = _where(line.spot)
    if isinstance(line, TimeLine):
        return f"{where}, {line.precision}: " + ", ".join(f"{side.ratio.value:.3f} of the time" for side in line.sides)
    judged = [
        f"{side.macs / subject.macs:.3f} of the MACs, {name}: "
        + ", ".join(f"{key} {value:.4f}" for key, value in vars(own).items() if value is not None)
        for side in line.sides
        for name, own in side.fidelity.items()
    ]
    return f"{where}, {line.treatment}: " + "; ".join(judged)


if __name__ == "__main__":
    main()
