"""The test images that files are verified on, with the torch model's outputs; more are added when they are needed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from compress.data.splits import stratified
from compress.evaluate import logits_of
from export.quantise.candidates import CandidateBuilder, Subject
from runtime import Calibration, Progress, Session, silent

from .job import ExportJob, images_of, knows_labels

_BATCH = 32
"""Images that a float file answers at once, where it takes batches."""


@dataclass(frozen=True)
class Reference:
    """The images that every file is verified on, with the torch model's outputs.

    Attributes:
        inputs: preprocessed images ``(N, H, W, C)`` float32.
        logits: of the torch model, ``(N, classes)`` float32.
        labels: true classes ``(N,)``, or None.
        no_labels_reason: why there are no labels.
        whole: vectors of the whole model that the torch model was cut from, ``(N, D)``; None for models of classes and
            where there is no whole model.
    """

    inputs: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    no_labels_reason: str | None
    whole: npt.NDArray[np.float32] | None = None


@dataclass
class GrowingReference:
    """Adds test images, each class with its share, and keeps those that it has.

    Attributes:
        job: the model and the source of the images.
        progress: called while the torch model answers.
        subjects: the held-out images that were prepared to choose recipes, by what sets the ranges; several kinds of
            file share them.
        builders: of candidates, by form of file, its options and what sets the ranges. Kinds of one form share the
            calibrated graphs.
        exact: a float file that was verified to compute what the torch model computes, and answers further images in
            its place, since engines are faster. Without one the torch model answers.
    """

    job: ExportJob
    progress: Progress = field(default=silent)
    subjects: dict[Calibration, Subject] = field(default_factory=dict)
    builders: dict[tuple[Hashable, ...], CandidateBuilder] = field(default_factory=dict)
    exact: Session | None = None
    _indices: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _known: Reference | None = None

    def take(self, images: int) -> Reference:
        """Returns the first ``images`` test images; a larger number begins with those of a smaller one."""
        missing = min(images, len(self.job.data.test)) - len(self._indices)
        if missing > 0:
            self._add(missing)
        assert self._known is not None
        whole = self._known
        return replace(
            whole,
            inputs=whole.inputs[:images],
            logits=whole.logits[:images],
            labels=None if whole.labels is None else whole.labels[:images],
            whole=None if whole.whole is None else whole.whole[:images],
        )

    def answers(
        self, indices: npt.NDArray[np.int64], inputs: npt.NDArray[np.float32], stage: str
    ) -> npt.NDArray[np.float32]:
        """Returns the model's outputs ``(N, ...)`` float32 for the pictures at ``indices``.

        Args:
            indices: of the pictures in the job's data.
            inputs: the same pictures preprocessed, ``(N, H, W, C)``.
            stage: name of the work, for progress.
        """
        job, parts = self.job, []
        if self.exact is None:
            return logits_of(job.model, job.data, indices, job.task.preprocessing, progress=self.progress, stage=stage)
        for start in range(0, len(inputs), _BATCH):
            parts.append(self.exact.outputs(inputs[start : start + _BATCH]))
            self.progress(stage, min(start + _BATCH, len(inputs)), len(inputs))
        return np.concatenate(parts)

    def _add(self, images: int) -> None:
        task, data = self.job.task, self.job.data
        left = np.setdiff1d(data.test, self._indices) if len(self._indices) else data.test
        # stratified: every n-th image could be of a few classes alone where classes alternate
        new = np.sort(stratified(data.labels, left, images, np.random.default_rng(0)))
        inputs = images_of(data, new, task)
        logits = self.answers(new, inputs, self._stage())
        known = knows_labels(task, data)
        reason = None if known else f"the {len(task.class_names)} classes of the model are not those of {data.name}"
        if not data.labelled:
            reason = "the images have no labels"
        whole = None
        if self.job.whole is not None:
            stage = f"whole model, {self._stage()}"
            whole = logits_of(self.job.whole, data, new, task.preprocessing, progress=self.progress, stage=stage)
        found = Reference(inputs, logits, data.labels[new] if known else None, reason, whole)
        self._indices = np.concatenate([self._indices, new])
        self._known = found if self._known is None else _joined(self._known, found)

    def _stage(self) -> str:
        return "more float answers" if len(self._indices) else "float answers"


def _joined(first: Reference, second: Reference) -> Reference:
    """Returns the images of both."""
    labels = None
    if first.labels is not None and second.labels is not None:
        labels = np.concatenate([first.labels, second.labels])
    return Reference(
        np.concatenate([first.inputs, second.inputs]),
        np.concatenate([first.logits, second.logits]),
        labels,
        first.no_labels_reason,
        None if first.whole is None or second.whole is None else np.concatenate([first.whole, second.whole]),
    )
