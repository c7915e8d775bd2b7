"""Runs an exported file on real images and compares it with the torch model it came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from runtime import Artifact, ClassLoss, Parity, ParityError, Progress, Session, message, silent

from .compare import compare_logits, losses_by_class
from .formats import FormatRun, kind_of
from .gate.limits import ExportLimits, Verdict, judge_until_told
from .reference import Reference

FLOAT_TOLERANCE = 1e-4
"""Largest difference of a float file's logits from torch, relative to the largest logit."""

BATCH = 32
"""Size of the batches that a file with a free batch dimension is also run on."""

_ALIKE = 2000
"""One of this many images may have another top-1 in a batch than alone: another order of sums can decide a tie."""


@dataclass
class VerifiedFile:
    """Runs one file on a growing number of images, each image once.

    Attributes:
        artifact: its manifest, which gets the comparison.
        session: the file, loaded; None where ``run`` runs it.
        run: runs the file on preprocessed images ``(N, H, W, C)`` in another interpreter than that of its format.
        progress: called while images run.
        known: logits of the file on the first images, from an earlier run of it. If the file answers the first image
            with the first of them, these images do not run again.
    """

    artifact: Artifact
    session: Session | None = None
    run: Callable[[npt.NDArray[np.float32], Progress], FormatRun] | None = None
    progress: Progress = field(default=silent)
    known: npt.NDArray[np.float32] | None = None
    _logits: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _alike: list[bool] = field(default_factory=list)
    _arena_bytes: int | None = None

    def parity(self, reference: Reference) -> Parity:
        """Returns how the file compares with the torch model on the images of ``reference``.

        The images of the last call must be the first ones. Where the file has a free batch dimension, the images of the
        first call are also run in batches.
        """
        done = sum(map(len, self._logits))
        if done < len(reference.inputs):
            self._logits.append(self._answers(reference.inputs[done:], first=not done))
        logits = np.concatenate(self._logits)
        classes = self.artifact.output_kind == "classes"
        parity = compare_logits(
            logits, reference.logits, reference.labels, reference.no_labels_reason, classes, reference.whole
        )
        if not self._alike:
            return parity
        part = len(self._alike) if len(self._alike) < parity.images else None
        return replace(parity, batch_agreement=float(np.mean(self._alike)), batch_images=part)

    def judged(
        self, take: Callable[[int], Reference], looks: tuple[int, ...], limits: ExportLimits
    ) -> tuple[Artifact, Verdict]:
        """Runs the file on more and more images until it can be told whether it keeps ``limits``.

        Args:
            take: returns so many test images with the torch model's outputs.
            looks: numbers of images, rising.
            limits: what the file must keep.

        Returns:
            The manifest with the comparison, and the verdict.
        """
        file = self.artifact.file

        def measured(images: int) -> Parity:
            if images > looks[0]:
                before = looks[looks.index(images) - 1]
                message(
                    self.progress, "verify", f"{before} images cannot tell whether {file} keeps its limits; adding some"
                )
            return self.parity(take(images))

        parity, verdict = judge_until_told(measured, looks, limits, file)
        reference, names = take(parity.images), self.artifact.class_names
        losses: tuple[ClassLoss, ...] = ()
        if reference.labels is not None and parity.lost is not None and names:
            losses = losses_by_class(np.concatenate(self._logits), reference.logits, reference.labels, names)
        artifact = replace(
            self.artifact,
            parity=parity,
            arena_bytes=self._arena_bytes,
            unproven=verdict.unproven,
            drop_bounds=verdict.drop_bounds,
            class_losses=losses,
        )
        return artifact, verdict

    def _answers(self, inputs: npt.NDArray[np.float32], first: bool) -> npt.NDArray[np.float32]:
        if self.run is not None:
            found = self.run(inputs, self.progress)
            self._arena_bytes = found.arena_bytes
            return found.logits
        assert self.session is not None
        own = self.session.artifact
        free = own.input.shape[0] < 0
        size = 1 if free else max(1, own.input.shape[0])
        alone = self._known(size, inputs) if first else None
        alone = self._by(size, inputs) if alone is None else alone
        if free and first and own.output_kind == "classes":
            together = self._by(BATCH, inputs)
            self._alike = list(alone.argmax(axis=1) == together.argmax(axis=1))
        return alone

    def _known(self, size: int, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """Returns the known answers to ``inputs`` if they are those of this file, else None."""
        if self.known is None or len(self.known) != len(inputs):
            return None
        return self.known if np.array_equal(self._by(size, inputs[:size]), self.known[:size]) else None

    def _by(self, size: int, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the answers to ``inputs``, ``size`` images at a time."""
        assert self.session is not None
        parts, done = [], 0
        for start in range(0, len(inputs), size):
            parts.append(self.session.outputs(inputs[start : start + size]))
            done += len(parts[-1])
            self.progress("verify", done, len(inputs), f"{self.artifact.file}, {size} at a time")
        return np.concatenate(parts)


def check_parity(artifact: Artifact, trained: bool) -> None:
    """Checks that a file computes what the torch model computes, as far as its kind promises.

    Args:
        artifact: manifest with its parity measured.
        trained: whether the weights are trained; the answers of untrained ones to batches are not checked.

    Raises:
        ParityError: the logits are not finite or differ too much, or the file answers differently in a batch.
    """
    parity, kind = artifact.parity, kind_of(artifact)
    held_to, agreement = kind.held_to if kind else "nothing", parity.top1_agreement
    if not math.isfinite(parity.max_abs):
        raise ParityError(f"{artifact.file} answers with numbers that are not finite")
    if held_to == "logits":
        if parity.max_rel > FLOAT_TOLERANCE or (agreement is not None and agreement < 1.0):
            raise ParityError(
                f"{artifact.file} does not compute what the torch model computes",
                expected=f"logits within {FLOAT_TOLERANCE:g} relative and 100 % of top-1",
                got=f"{parity.max_rel:.2e}, and {parity.top1_agreement} of the top-1 of {parity.images} images",
                fix="This is a fault of the conversion: report it with the plan",
            )
    if parity.batch_agreement is not None and trained:
        images = parity.batch_images or parity.images
        others = round((1 - parity.batch_agreement) * images)
        if others > max(1, images // _ALIKE):
            raise ParityError(
                f"{artifact.file} answers images in batches of {BATCH} otherwise than alone",
                expected=f"the same top-1 on all but 1 of {_ALIKE} images",
                got=f"another one on {others} of {images}",
                fix="This is a fault of the conversion: report it with the plan",
            )
