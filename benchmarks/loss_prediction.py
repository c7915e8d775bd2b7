"""Whether the importance in the best bases ranks whole cuts as the loss does that they have in the end.

    python benchmarks/loss_prediction.py --model vit_small_patch14_dinov2 --img-size 98 --checkpoint FILE \
        --data fashion-mnist [--photos CALIBRATION TEST --calibrate photos] [--cuts 8]

The importance of a unit is measured by cutting one group alone, while a search cuts all groups at once and adds up.
For each budget this command makes several cuts of the same MACs, by multiplying the importance of every group by a
random factor before the units are chosen. For every cut it adds up the true importance of what was removed, and
measures the loss of the cut model on test images that the analysis has not seen. It prints Spearman's rank correlation
of the two, over all cuts and among those of one budget, and the median ratio of the measured and the predicted loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from cutting.best_basis import analysed
from cutting.options import add_subject_options
from cutting.subject import Subject, load_subject
from cutting.ways import inputs_for
from scipy.stats import spearmanr

from compress.bases.analysis import BasisAnalysis, loss_of
from compress.budget import parse_budget
from compress.importance.units import BlockImportance, Importance
from compress.model.load import ModelSpec
from compress.model.slicing import KeptUnits, keep_all
from compress.search.milp import solve
from runtime import PocketVitError

_SPREAD = 0.7
"""Standard deviation of the logarithm of the random factors."""


def main(words: Sequence[str] | None = None) -> None:
    """Prints the rank correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_subject_options(parser)
    parser.add_argument("--calibrate", choices=("data", "photos"), default="data", help="set to cut and judge on")
    parser.add_argument("--test-images", type=int, default=128)
    parser.add_argument("--budgets", default="0.9,0.75,0.6,0.5", help="shares of the MACs, comma-separated")
    parser.add_argument("--cuts", type=int, default=8, help="cuts of each budget")
    options = parser.parse_args(words)
    try:
        subject = load_subject(
            ModelSpec(options.model, img_size=options.img_size, checkpoint=options.checkpoint),
            options.data,
            tuple(options.photos) if options.photos else None,
            calibration_images=options.calibration_images,
            test_images=options.test_images,
            test_photos=options.test_images,
        )
        shares = [float(share) for share in options.budgets.split(",")]
        print(table(subject, options.calibrate, shares, options.cuts))
    except PocketVitError as error:
        parser.error(str(error))


def table(subject: Subject, name: str, shares: Sequence[float], cuts: int) -> str:
    """Returns a Markdown table with one line for each budget, and one for all cuts."""
    stack = subject.pictures(name).calibration(subject.calibration_images, 0)
    analysis = analysed(inputs_for(subject.spec, subject.model, stack, 0))
    images = subject.tests[name].images
    pairs: list[tuple[float, float]] = []
    rows = ["| MACs left | cuts | rank correlation | measured / predicted loss |", "|---|---|---|---|"]
    for share in shares:
        own = []
        for kept in _cuts(analysis, subject, share, cuts):
            own.append((predicted(analysis.importance, kept), loss_of(analysis, kept, images)))
            print(f"{share:g}: predicted {own[-1][0]:.4g}, measured {own[-1][1]:.4g}", flush=True)
        rows.append(_row(f"{share:g}", own))
        pairs += own
    return "\n".join([*rows, _row("all", pairs)])


def predicted(importance: Importance, kept: KeptUnits) -> float:
    """Returns the importance of everything that is not in ``kept``."""
    total = float(np.delete(importance.embed, list(kept.embed)).sum())
    for block, keep in zip(importance.blocks, kept.blocks, strict=True):
        total += block.total - float(block.mlp[list(keep.mlp)].sum())
        for units, chosen in ((block.qk, keep.qk), (block.v, keep.v)):
            total -= sum(float(units[head, list(own)].sum()) for head, own in zip(keep.heads, chosen, strict=True))
    return total


def _cuts(analysis: BasisAnalysis, subject: Subject, share: float, count: int) -> Iterator[KeptUnits]:
    """Yields cuts to a budget: the best by the importance, then the best by importances that are changed at random."""
    plan, budget = analysis.model.plan, parse_budget(f"macs={share}", subject.model.plan)
    generator = np.random.default_rng([round(1000 * share), 5])
    for number in range(count):
        changed = analysis.importance if number == 0 else _changed(analysis.importance, generator)
        yield solve(plan, changed, budget, keep_all(plan)).kept


def _changed(importance: Importance, generator: np.random.Generator) -> Importance:
    def factor() -> float:
        return float(np.exp(_SPREAD * generator.standard_normal()))

    blocks = tuple(
        BlockImportance(own.qk * factor(), own.v * factor(), own.mlp * factor()) for own in importance.blocks
    )
    return replace(importance, blocks=blocks)


def _row(title: str, pairs: Sequence[tuple[float, float]]) -> str:
    expected, found = np.array(pairs).T
    differ = min(len(set(expected)), len(set(found))) > 1
    rank = f"{spearmanr(expected, found).statistic:.3f}" if differ else "-"
    return f"| {title} | {len(pairs)} | {rank} | {np.median(found / expected):.2f} |"


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
