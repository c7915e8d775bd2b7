"""How near exported files of a model with published weights are to it, over draws of calibration images.

    python benchmarks/real_exports.py --model vit_small_patch14_dinov2 --img-size 98 --checkpoint FILE \
        --data fashion-mnist [--formats int8,onnx-int8,int8-full,int4] [--draws 3] [--test-images 10000]
    python benchmarks/real_exports.py … --cut macs=0.75
    python benchmarks/real_exports.py … --report

The checkpoint is a classifier of the dataset. For every draw of calibration images, files are exported as
``pocketvit export`` does it, with its search for a recipe and its gate, and then run on all test images. With ``--cut``
the model is first cut to a budget in its best bases, without labels and without training, and files are compared with
that model in float32.

The SQNR is that of the logits, and a file agrees on an image if its most likely class is the float model's. With
several draws, a figure is their mean with its standard error. Every file is one line of ``lines.jsonl`` in ``--out``;
the same call goes on where a killed one was.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cutting.answers import answers_of
from cutting.options import add_subject_options
from cutting.subject import Subject, load_subject
from cutting.ways import WAYS, inputs_for

from compress.budget import parse_budget
from compress.model.folder import Task
from compress.model.load import ModelSpec
from compress.model.vit import SlicedViT
from device_bench.timing.isolated import time_isolated
from export.compare import compare_logits, real_logits
from export.exporter import REJECTED, export_each
from export.settings import ExportSettings
from runtime import Artifact, PocketVitError

FORMATS = ("int8", "onnx-int8", "int8-full", "int4")
_SLOW = {"int8-full-mixed"}
"""Kinds whose operators LiteRT has no fast kernels for on this machine; they run on fewer test images."""

Line = dict[str, Any]


def main(words: Sequence[str] | None = None) -> None:
    """Exports and runs what is missing, and prints the table."""
    parser = _parser()
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    kept: Path = options.out / "lines.jsonl"
    try:
        ExportSettings(kinds=tuple(options.formats.split(",")))
        bench = Bench(options)
        if not options.report:
            for draw in range(options.draws):
                for line in bench.missing(draw, _read(kept)):
                    _add(kept, line)
                    print(_row([line]), flush=True)
        print(table([line for line in _read(kept) if line["subject"] == bench.digest]))
    except PocketVitError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_subject_options(parser)
    parser.add_argument("--formats", default=",".join(FORMATS), help="kinds of file, comma-separated")
    parser.add_argument("--cut", default="", metavar="BUDGET", help="cut the model to this budget first")
    parser.add_argument("--draws", type=int, default=1, help="draws of calibration images")
    parser.add_argument("--test-images", type=int, default=10_000, help="at most")
    parser.add_argument("--slow-images", type=int, default=500, help="at most, for files without fast kernels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/real-exports"))
    parser.add_argument("--report", action="store_true", help="print the table and measure nothing")
    return parser


class Bench:
    """The model and the test images, made when something is missing."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Takes the options of the command."""
        self.options = options
        self.subject: Subject = load_subject(
            ModelSpec(options.model, img_size=options.img_size, checkpoint=options.checkpoint),
            options.data,
            None,
            calibration_images=options.calibration_images,
            test_images=options.test_images,
            test_photos=1,
        )

    @property
    def digest(self) -> str:
        """What lines of one table have in common."""
        return f"{self.subject.digest} {self.options.cut}".strip()

    @cached_property
    def model(self) -> SlicedViT:
        """The model that is exported."""
        if not self.options.cut:
            return self.subject.model
        way, pictures = WAYS["best-alone"], self.subject.pictures("data")
        calibration = pictures.calibration(self.subject.calibration_images, 0)
        inputs = inputs_for(self.subject.spec, self.subject.model, calibration, 0)
        budget = parse_budget(self.options.cut, self.subject.model.plan)
        return way.cut(inputs, way.choose(inputs, way.analyse(inputs), budget), True)[0].model

    @cached_property
    def logits(self) -> npt.NDArray[np.float32]:
        """The float model's logits of the test images, ``(N, classes)``."""
        return answers_of(self.model, self.subject.tests["data"].images).logits.numpy()

    def missing(self, draw: int, lines: Sequence[Line]) -> Iterator[Line]:
        """Exports the kinds of one draw that are not among the lines, and yields a line for each."""
        done = {line["kind"] for line in lines if line["subject"] == self.digest and line["draw"] == draw}
        for kind in self.options.formats.split(","):
            if kind not in done:
                yield self._line(kind, draw)

    def _line(self, kind: str, draw: int) -> Line:
        pictures = self.subject.pictures("data")
        data = pictures.data
        task = Task(data.name, 0, None, pictures.spec, data.class_names, "published weights", True)
        folder = self.options.out / (self.options.cut.replace("=", "-") or "whole") / str(draw)
        settings, started = ExportSettings(kinds=(kind,), seed=draw), time.monotonic()
        outcome = export_each(self.model, task, data, folder, "model", settings, timer=time_isolated)
        seconds = time.monotonic() - started
        made = (*outcome.accepted, *outcome.refused)[0]
        path = (folder / REJECTED if made.refused else folder) / made.file
        return {"subject": self.digest, "kind": kind, "draw": draw, "seconds": seconds, **self._judged(made, path)}

    def _judged(self, made: Artifact, path: Path) -> Line:
        test = self.subject.tests["data"]
        assert test.labels is not None
        count = min(self.options.slow_images, len(test)) if made.precision in _SLOW else len(test)
        images = np.ascontiguousarray(test.images[:count].numpy().transpose(0, 2, 3, 1))
        logits = real_logits(path, images, threads=self.options.threads)
        parity = compare_logits(logits, self.logits[:count], test.labels[:count].numpy())
        assert parity.top1 is not None
        assert parity.reference_top1 is not None
        return {
            "recipe": made.recipe,
            "refused": made.refused,
            "bytes": made.size_bytes,
            "images": count,
            "sqnr_db": parity.sqnr_db,
            "agreement": parity.top1_agreement,
            "top1": parity.top1,
            "float_top1": parity.reference_top1,
        }


def table(lines: Sequence[Line]) -> str:
    """Returns the table: a row for every kind and number of test images, the draws taken together."""
    cells: dict[tuple[str, int], list[Line]] = {}
    for line in lines:
        cells.setdefault((line["kind"], line["images"]), []).append(line)
    head = "| file | recipes | draws | images | MB | SQNR, dB | agrees, % | top-1, % | lost, points | export, s |"
    return "\n".join([head, "|---" * 10 + "|", *map(_row, cells.values())])


def _row(lines: Sequence[Line]) -> str:
    recipes = ", ".join(f"`{name}`" for name in dict.fromkeys(line["recipe"] for line in lines))
    refused = sum(line["refused"] is not None for line in lines)
    cells = (
        lines[0]["kind"],
        recipes + (f" ({refused} refused)" if refused else ""),
        str(len(lines)),
        f"{lines[0]['images']:,}",
        f"{statistics.mean(line['bytes'] for line in lines) / 1e6:.1f}",
        _mean([math.inf if line["sqnr_db"] is None else line["sqnr_db"] for line in lines], 1),
        _mean([100 * line["agreement"] for line in lines], 2),
        _mean([100 * line["top1"] for line in lines], 2),
        _mean([100 * (line["float_top1"] - line["top1"]) for line in lines], 2),
        f"{statistics.median(line['seconds'] for line in lines):.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _mean(values: Sequence[float], digits: int) -> str:
    """Returns the mean, and its standard error where there are several values."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.{digits}f}"


def _read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _add(path: Path, line: Line) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
