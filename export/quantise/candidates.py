"""Candidates of quantised files: built, run on images that no training saw, and compared with the float model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.model.vit import SlicedViT
from export.compare import compare_logits, real_logits
from export.gate.limits import drop_of
from export.graph.build import vit_graph
from export.graph.ir import LINEAR, Graph
from export.graph.rewrites import Scales
from export.graph.vit_parts import compares_texts
from runtime import Parity, Progress, macs, silent
from runtime.registry import imported

from .calibrate import TensorStats, observe
from .compensate import RoundedWeights, rounded_weights
from .equalise import equalising_scales
from .fitted_head import features_graph, fitted_head, last_linear, logits_from
from .form import Form
from .integer import quantise_graph
from .learnt_ranges import learn_ranges
from .recipes import AFTER_ROUNDING, Recipe
from .simulate import correct_biases, simulate

_SENSITIVITY_IMAGES = 8
_SHARES = (8, 4, 2)
_LEAST_IMAGES = 64


def _never(parity: Parity) -> bool:
    return False


@dataclass(frozen=True)
class Subject:
    """A model to quantise, with the images for it.

    Attributes:
        model: the float model.
        calibration: images that set the ranges, ``(N, H, W, C)`` float32, preprocessed.
        images: images that candidates are compared on, ``(N, H, W, C)`` float32, preprocessed.
        logits: of the float model on ``images``, ``(N, classes)``.
        labels: true classes of ``images``, or None.
    """

    model: SlicedViT
    calibration: npt.NDArray[np.float32]
    images: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None

    @property
    def has_classes(self) -> bool:
        """Whether the model answers with classes."""
        return not self.model.plan.is_vector


@dataclass(frozen=True)
class Candidate:
    """A quantised file, compared with the float model.

    Attributes:
        recipe: the recipe it was written by.
        graph: of integers.
        path: of the file.
        parity: comparison with the float model.
        logits: of the file on the first ``parity.images`` images.
    """

    recipe: Recipe
    graph: Graph
    path: Path
    parity: Parity
    logits: npt.NDArray[np.float32]


@dataclass
class CandidateBuilder:
    """Builds candidates of one subject; shared graphs and statistics are computed once.

    Attributes:
        subject: the model to quantise.
        folder: of the candidates' files.
        form: how graphs become files.
        kind: name of the kind of file, for progress.
        progress: called at every long step, and with the accuracy of every candidate.
        tried: number of candidates so far.
        told: returns whether a comparison on some of the images tells enough about a candidate; the others are then
            left out. It is asked after an eighth of the images, a quarter, and half of them.
    """

    subject: Subject
    folder: Path
    form: Form
    kind: str = "int8"
    progress: Progress = field(default=silent)
    tried: int = 0
    told: Callable[[Parity], bool] = field(default=_never)
    _scales: Scales | None = None
    _seen: dict[tuple[bool, bool], tuple[Graph, dict[str, TensorStats]]] = field(default_factory=dict)
    _rounded: dict[Recipe, RoundedWeights] = field(default_factory=dict)

    def for_kind(self, kind: str, folder: Path) -> CandidateBuilder:
        """Returns a builder for another kind of file of the same form, with the graphs that this one has."""
        own = CandidateBuilder(self.subject, folder, self.form, kind, self.progress)
        own._scales, own._seen, own._rounded = self._scales, self._seen, self._rounded
        return own

    def graph(self, recipe: Recipe) -> tuple[Graph, dict[str, TensorStats]]:
        """Returns the float graph that ``recipe`` starts from, and the statistics of its activations.

        Without a rotation, the channels of attention are equalised, and those of the residual stream by the recipe.
        """
        key = recipe.rotated, recipe.equalised
        if key not in self._seen:
            scales = Scales() if recipe.rotated else self._channels()
            scales = scales if recipe.equalised else replace(scales, stream=None)
            graph = self._built(recipe.rotated, scales)
            self._seen[key] = graph, self._observed(graph)
        return self._seen[key]

    def _channels(self) -> Scales:
        """Returns the factors that make channels equally large."""
        if self._scales is None:
            plain = self._built(rotated=False)
            self._scales = equalising_scales(self.subject.model.plan, plain, self._observed(plain))
        return self._scales

    def _built(self, rotated: bool, scales: Scales | None = None) -> Graph:
        model = self.subject.model
        rewrites = self.form.rewrites(model)
        return self.form.prepare(vit_graph(self.form.rotate(model) if rotated else model, rewrites, scales))

    def _observed(self, graph: Graph) -> dict[str, TensorStats]:
        stage, images = f"{self.kind} calibration", self.subject.calibration
        return observe(graph, images, done=lambda done: self.progress(stage, done, len(images)))

    def quantised(self, recipe: Recipe) -> Graph:
        """Returns the graph of integers by ``recipe``.

        The inputs of Linears differ little between recipes that differ in attention's products or in how ranges are
        chosen. Such recipes share weights that are rounded under compensation once, for one of them, whichever of them
        is asked for first.
        """
        graph, seen = self.graph(recipe)
        if recipe.passes not in AFTER_ROUNDING:
            return self._quantised(recipe, graph, seen)
        first = _rounded_for(recipe)
        if first not in self._rounded:
            made = self._quantised(first, graph, seen)
            self._rounded[first] = rounded_weights(made)
            if first == replace(recipe, name="", kinds=()):
                return made
        made = self._rounded[first].put_into(self._on_grids(recipe, graph, seen))
        return self._passed(made, AFTER_ROUNDING[recipe.passes], seen)

    def quantised_from(self, recipe: Recipe, graph: Graph) -> Graph:
        """Returns the graph of integers by ``recipe`` of a float graph with the same operators and other weights."""
        return self._quantised(recipe, graph, self._observed(graph))

    def _quantised(self, recipe: Recipe, graph: Graph, seen: dict[str, TensorStats]) -> Graph:
        return self._passed(self._on_grids(recipe, graph, seen), recipe.passes, seen)

    def _on_grids(self, recipe: Recipe, graph: Graph, seen: dict[str, TensorStats]) -> Graph:
        return self.form.settle(quantise_graph(graph, self.form.modes(graph, recipe), seen, recipe.ranges))

    def _passed(self, graph: Graph, passes: tuple[str, ...], seen: dict[str, TensorStats]) -> Graph:
        for name in passes:
            graph = imported(name)(graph, seen, self.subject.calibration)
        return graph

    def candidate(self, recipe: Recipe, graph: Graph | None = None, most: int = 0) -> Candidate:
        """Writes the file of ``recipe``, or of ``graph``, and runs it.

        Args:
            recipe: the recipe.
            graph: a graph of integers in place of the recipe's own.
            most: runs the first so many images; 0 runs all.
        """
        started, images = time.monotonic(), min(most or len(self.subject.images), len(self.subject.images))
        self.graph(recipe)
        self.tried += 1
        self.progress(self._stage, 0, images + 1, recipe.name)
        graph = graph or self.quantised(recipe)
        path = self.folder / f"{recipe.name}{self.form.suffix}"
        path.write_bytes(self.form.write(graph))
        parity, logits = self._compared(path, images)
        took = f"took {time.monotonic() - started:.1f} s"
        self.progress(self._stage, images + 1, images + 1, f"{recipe.name}: {_in_words(parity)}, {took}")
        return Candidate(recipe, graph, path, parity, logits)

    def with_learnt_ranges(self, one: Candidate) -> Candidate:
        """Returns a candidate of int8 throughout with ranges learnt from its own, run on all images.

        What its form computes more than once to round less is added first, and its last Linear is at the end fitted to
        the float model's logits on these images.
        """
        subject, stage = self.subject, f"{self.kind} ranges"
        plain, seen = self.graph(one.recipe)
        graph = learn_ranges(
            self.form.repeat(one.graph),
            plain,
            subject.calibration,
            macs(subject.model.plan),
            lambda *now: self.progress(stage, *now),
        )
        graph = correct_biases(graph, seen, subject.calibration)
        recipe = replace(one.recipe, name=f"{one.recipe.name}_learnt")
        return self._fitted(recipe, graph) or self.candidate(recipe, graph)

    def _fitted(self, recipe: Recipe, graph: Graph) -> Candidate | None:
        """Fits the last Linear of a graph of integers to what the file of all before it computes.

        Returns:
            A candidate with the answers that its file gives for these inputs of its last Linear, or None if there is
            none to fit.
        """
        head, subject, stage = last_linear(graph), self.subject, f"{self.kind} head"
        if head is None or len(head.inputs) < 3 or compares_texts(graph, head):
            return None
        path, images = self.folder / f"features{self.form.suffix}", len(subject.images)
        path.write_bytes(self.form.write(features_graph(graph, head)))
        features = self._logits(path, 0, images, stage, images)
        path.unlink()
        graph = fitted_head(graph, head, features, subject.logits)
        logits = logits_from(graph, head, features)
        parity = compare_logits(logits, subject.logits, subject.labels, "", subject.has_classes)
        self.progress(stage, images + 1, images + 1, f"{recipe.name}: {_in_words(parity)}")
        path = self.folder / f"{recipe.name}{self.form.suffix}"
        path.write_bytes(self.form.write(graph))
        return Candidate(recipe, graph, path, parity, logits)

    def on_first(self, one: Candidate, images: int) -> Candidate:
        """Returns a candidate with its answers to the first ``images`` images alone."""
        subject, logits = self.subject, one.logits[:images]
        labels = None if subject.labels is None else subject.labels[:images]
        return replace(
            one,
            parity=compare_logits(logits, subject.logits[:images], labels, "", subject.has_classes),
            logits=logits,
        )

    def completed(self, one: Candidate) -> Candidate:
        """Returns a candidate that was run on some of the images, run on all of them."""
        images = len(self.subject.images)
        if one.parity.images >= images:
            return one
        self.progress(f"{self.kind} whole", 0, images + 1, one.recipe.name)
        rest = self._logits(one.path, len(one.logits), images, f"{self.kind} whole", images)
        logits = np.concatenate([one.logits, rest])
        parity = compare_logits(logits, self.subject.logits, self.subject.labels, "", self.subject.has_classes)
        self.progress(f"{self.kind} whole", images + 1, images + 1, f"{one.recipe.name}: {_in_words(parity)}")
        return replace(one, parity=parity, logits=logits)

    def file_to_time(self, recipe: Recipe) -> Path:
        """Writes a file with the operators of ``recipe`` and rough ranges, which is as fast as the candidate."""
        rough = replace(recipe, passes=(), ranges=replace(recipe.ranges, method="minmax"))
        path = self.folder / "timed" / f"{recipe.name}{self.form.suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.form.write(self.quantised(rough)))
        return path

    @property
    def _stage(self) -> str:
        return f"{self.kind} try {self.tried}"

    def _compared(self, path: Path, images: int) -> tuple[Parity, npt.NDArray[np.float32]]:
        """Runs a file on images until enough is known about it, and returns its logits, too."""
        parts: list[npt.NDArray[np.float32]] = []
        for end in sorted({images // share for share in _SHARES if images // share >= _LEAST_IMAGES} | {images}):
            parts.append(self._logits(path, sum(map(len, parts)), end, self._stage, images))
            labels, logits = self.subject.labels, np.concatenate(parts)
            labels = None if labels is None else labels[:end]
            parity = compare_logits(logits, self.subject.logits[:end], labels, "", self.subject.has_classes)
            if self.told(parity):
                break
        return parity, logits

    def _logits(self, path: Path, start: int, end: int, stage: str, images: int) -> npt.NDArray[np.float32]:
        return real_logits(
            path,
            self.subject.images[start:end],
            lambda done: self.progress(stage, start + done, images + 1, path.stem),
            threads=torch.get_num_threads(),
        )

    def sensitivities(self, recipe: Recipe) -> list[str]:
        """Returns the names of the Linears, sorted by how much rounding each alone changes the logits, most first."""
        graph, seen = self.graph(recipe)
        images = self.subject.images[:_SENSITIVITY_IMAGES]
        wanted = simulate(graph, images)
        modes = self.form.modes(graph, recipe)
        names = [op.output for op in graph.ops if op.kind in LINEAR and modes.get(op.output, "float") != "float"]
        errors = {}
        for done, name in enumerate(names):
            self.progress(f"{self.kind} layers", done, len(names), f"error of rounding {name} alone")
            alone = quantise_graph(graph, {name: modes[name]}, seen, replace(recipe.ranges, outside=False))
            errors[name] = float(np.square(simulate(alone, images) - wanted).sum())
        self.progress(f"{self.kind} layers", len(names), len(names))
        return sorted(errors, key=lambda name: -errors[name])


def _rounded_for(recipe: Recipe) -> Recipe:
    """Returns the recipe whose rounded weights a recipe takes, without a name."""
    attention = "float" if recipe.others == "float" else recipe.attention
    return replace(recipe, name="", kinds=(), ranges=replace(recipe.ranges, method="mse"), attention=attention)


def _in_words(parity: Parity) -> str:
    """Returns the accuracy of a candidate in words."""
    distance = "equal" if parity.sqnr_db is None else f"{parity.sqnr_db:.1f} dB"
    drop = drop_of(parity)
    lost = "" if drop is None else f", top-1 {0.0 - drop:+.2f} points"
    if parity.vectors is not None:
        return f"cosine {parity.vectors.cosine:.4f} on {parity.images} images, SQNR {distance}"
    return f"agrees on {parity.top1_agreement or 0.0:.1%} of {parity.images} images, SQNR {distance}{lost}"


def score_of(one: Candidate) -> float:
    """Returns the rank of a candidate: the SQNR of its logits, dB.

    The number of images with the same top-1 varies by chance; the logits of all images vary less.
    """
    return np.inf if one.parity.sqnr_db is None else one.parity.sqnr_db
