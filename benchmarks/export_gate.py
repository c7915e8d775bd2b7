"""How often the gate of an export refuses good files and releases bad ones, simulated with its own decision.

    python benchmarks/export_gate.py

Each draw is one file: its answers to the images are drawn with a given true loss of top-1, and the gate judges the
counts as it judges those of an exported file. The table says how often a file is refused, released with a warning that
its loss is not proven, and released as proven.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass

import numpy as np

from export.gate.limits import MAX_DROP, MIN_AGREEMENT, MIN_SQNR_DB, ExportLimits, judge_until_told
from export.gate.looks import planned_looks
from runtime import Parity

ACCURACY = 0.82
LOSSES = (0.0, 0.5, 2.0)
PLANS = {
    "365": (365,),
    "365 and more, up to 3,000": planned_looks(365, 3000),
    "3,000": (3000,),
}


@dataclass(frozen=True)
class Drawn:
    """The answers of one file to a sequence of images, as running counts.

    Attributes:
        lost: images so far that the float model alone answers right, ``(N + 1,)``.
        gained: images so far that the file alone answers right.
        both_wrong: images so far that both answer wrong, with different classes.
        right: images so far that the float model answers right.
    """

    lost: np.ndarray
    gained: np.ndarray
    both_wrong: np.ndarray
    right: np.ndarray

    def parity(self, images: int) -> Parity:
        """Returns the comparison on the first images; the SQNR is that of a good file."""
        lost, gained, other, right = (int(own[images]) for own in (self.lost, self.gained, self.both_wrong, self.right))
        return Parity(
            images,
            1.0,
            0.1,
            25.0,
            1 - (lost + gained + other) / images,
            (right - lost + gained) / images,
            right / images,
            lost=lost,
            gained=gained,
        )


def draw(random: np.random.Generator, loss: float, agreement: float, images: int) -> Drawn:
    """Draws the answers of a file.

    Args:
        random: source of randomness.
        loss: true loss of top-1, in points.
        agreement: true share of images with the same answer, 0..1.
        images: number of images.
    """
    changed, lost_more = 1 - agreement, loss / 100
    # a quarter of the answers that change is wrong before and after
    turned = max(lost_more, 0.75 * changed)
    shares = [(turned + lost_more) / 2, (turned - lost_more) / 2, changed - turned]
    kinds = random.choice(4, images, p=[*shares, 1 - sum(shares)])
    # the float model is right where it loses, and wrong where the file gains or both are wrong
    stays_right = random.random(images) < (ACCURACY - shares[0]) / (1 - sum(shares))
    right = (kinds == 0) | ((kinds == 3) & stays_right)
    counts = [np.concatenate([[0], np.cumsum(own)]) for own in (kinds == 0, kinds == 1, kinds == 2, right)]
    return Drawn(*counts)


def outcomes(
    loss: float, agreement: float, looks: tuple[int, ...], draws: int, seed: int
) -> tuple[Counter[str], float]:
    """Returns how often each outcome came, and the mean number of images that were run."""
    random, found, images = np.random.default_rng(seed), Counter[str](), 0
    limits = ExportLimits(MIN_AGREEMENT, MIN_SQNR_DB, MAX_DROP)
    for _ in range(draws):
        parity, verdict = judge_until_told(draw(random, loss, agreement, looks[-1]).parity, looks, limits)
        found["refused" if verdict.refusal else "unproven" if verdict.unproven else "proven"] += 1
        images += parity.images
    return found, images / draws


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--agreement", type=float, default=0.97)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| true loss, points | images | refused | released as unproven | released as proven | images run, mean |")
    print("|---:|---|---:|---:|---:|---:|")
    for loss in LOSSES:
        for name, looks in PLANS.items():
            found, images = outcomes(loss, options.agreement, looks, options.draws, options.seed)
            shares = " | ".join(f"{found[own] / options.draws:.1%}" for own in ("refused", "unproven", "proven"))
            print(f"| {loss:g} | {name} | {shares} | {images:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
