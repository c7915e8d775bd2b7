"""What rotation and compensated rounding bring a model with published weights, kind of file by kind of file.

    python benchmarks/integer_variants.py --model vit_small_patch14_dinov2 --img-size 98 --checkpoint FILE \
        --data fashion-mnist [--only int8,onnx-int8,int8-full] [--images 10000] [--draws 3]

The checkpoint is a classifier of the dataset. Every recipe of a kind of file is written as it is, without the rotation,
without the compensation of rounding errors, and without both. The files are run on test images. A line has the SQNR of
the logits, the share of images with the float model's top-1, the points of top-1 that were lost, the size of the file,
and the time and the greatest memory of the process while it was quantised.

Every line is kept in ``lines.jsonl`` in ``--out``, and the same call does not measure it again.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cutting.answers import Answers, answers_of
from cutting.pictures import Stack
from cutting.subject import Subject as Whole
from cutting.subject import load_subject

from compress.model.load import ModelSpec
from export.compare import compare_logits, real_logits
from export.formats import KINDS
from export.quantise.candidates import CandidateBuilder, Subject
from export.quantise.recipes import AFTER_ROUNDING, Recipe, recipes_for

VARIANTS = ("both", "no rotation", "no compensation", "neither")


def main(words: Sequence[str] | None = None) -> None:
    """Measures what is missing and prints the table."""
    options = _parser().parse_args(words)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "lines.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    known = {tuple(line["key"]): line for line in lines}
    whole = load_subject(
        ModelSpec(options.model, img_size=options.img_size, checkpoint=options.checkpoint),
        options.data,
        None,
        calibration_images=options.calibration_images,
        test_images=options.images,
        test_photos=1,
    )
    answers: Answers | None = None
    print("| kind | recipe | variant | draw | SQNR, dB | agrees | lost, points | MB | seconds | memory, GB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for draw in range(options.draws):
        for kind in options.only.split(","):
            builder: CandidateBuilder | None = None
            for recipe in recipes_for(kind):
                for variant in options.variants.split(","):
                    if options.recipes and recipe.name not in options.recipes.split(","):
                        continue
                    key = (whole.digest, kind, recipe.name, variant, draw)
                    if key not in known:
                        answers = answers or answers_of(whole.model, whole.tests["data"].images)
                        builder = builder or _builder(whole, kind, draw, answers, options.out)
                        known[key] = {"key": key, **_measured(builder, _varied(recipe, variant))}
                        with kept.open("a") as file:
                            file.write(json.dumps(known[key]) + "\n")
                    own = known[key]
                    print(
                        f"| {kind} | `{recipe.name}` | {variant} | {draw} | {own['sqnr_db']:.1f} "
                        f"| {100 * own['agreement']:.2f} % | {own['lost_points']:+.2f} | {own['bytes'] / 1e6:.1f} "
                        f"| {own['seconds']:.0f} | {own['peak_bytes'] / 1e9:.1f} |",
                        flush=True,
                    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="timm's name of the architecture")
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights with a classifier of the dataset")
    parser.add_argument("--data", required=True, help="labelled dataset, as pocketvit run takes it")
    parser.add_argument("--img-size", type=int, default=None, help="input side, pixels")
    parser.add_argument("--only", default="int8,onnx-int8,int8-full", help="kinds of file, comma-separated")
    parser.add_argument("--recipes", default="", help="names of recipes, comma-separated; default all of the kind")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    parser.add_argument("--calibration-images", type=int, default=128)
    parser.add_argument("--images", type=int, default=10_000, help="test images, at most")
    parser.add_argument("--draws", type=int, default=1, help="draws of calibration images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/integer-variants"))
    return parser


def _varied(recipe: Recipe, variant: str) -> Recipe:
    """Returns a recipe without what a variant leaves out."""
    if variant in ("no rotation", "neither"):
        recipe = replace(recipe, rotated=False)
    if variant in ("no compensation", "neither"):
        recipe = replace(recipe, passes=AFTER_ROUNDING.get(recipe.passes, recipe.passes))
    return recipe


def _builder(whole: Whole, kind: str, draw: int, answers: Answers, out: Path) -> CandidateBuilder:
    form = KINDS[kind].form
    assert form is not None, f"{kind} has no integers"
    pictures, test = whole.pictures("data"), whole.tests["data"]
    calibration = pictures.calibration(whole.calibration_images, draw)
    labels = test.labels
    assert labels is not None
    subject = Subject(whole.model, _last(calibration), _last(test), answers.logits.numpy(), labels.numpy())
    return CandidateBuilder(subject, out, form(), kind)


def _last(stack: Stack) -> np.ndarray[Any, Any]:
    """Returns images with the channels last."""
    return np.ascontiguousarray(stack.images.numpy().transpose(0, 2, 3, 1))


def _measured(builder: CandidateBuilder, recipe: Recipe) -> dict[str, Any]:
    subject, started = builder.subject, time.monotonic()
    path = builder.folder / f"{recipe.name}{builder.form.suffix}"
    path.write_bytes(builder.form.write(builder.quantised(recipe)))
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    logits = real_logits(path, subject.images, threads=torch.get_num_threads())
    parity = compare_logits(logits, subject.logits, subject.labels)
    assert parity.top1 is not None
    assert parity.reference_top1 is not None
    return {
        "sqnr_db": parity.sqnr_db,
        "agreement": parity.top1_agreement,
        "lost_points": 100 * (parity.reference_top1 - parity.top1),
        "bytes": path.stat().st_size,
        "seconds": seconds,
        "peak_bytes": peak,
    }


if __name__ == "__main__":
    main()
