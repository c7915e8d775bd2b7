"""Chooses how to quantise a model: candidates are built, run on images that no training saw, timed, and compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.model.vit import SlicedViT
from export.graph.build import Rewrites, Scales, vit_graph
from export.graph.ir import LINEAR, Graph
from export.graph.zeros import rewrites_for
from export.verify import compare_logits, real_logits
from export.writers.tflite import tflite_bytes
from runtime import Parity, Progress, Trial, open_engine, silent

from .calibrate import Stats, observe
from .equalise import equalising_scales
from .integer import Mode, quantise
from .recipes import Family, Recipe, instructions_of_fp32, modes_of
from .rounding import correct_biases, simulate

Images = npt.NDArray[np.float32]
Timer = Callable[[Sequence[Path]], Sequence[float]]
"""Runs files in turns and returns the time of each, seconds."""

_ALIKE = 0.02
"""Two files whose times differ by less are as fast as each other; the more accurate one is taken."""

_SENSITIVITY_IMAGES = 8
_FLOAT_LAYERS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Wanted:
    """What a quantised file must reach on the images of choice.

    Attributes:
        agreement: least share of images with the float model's top-1, 0..1; None asks nothing.
        max_drop: most points of top-1 that may be lost; None asks nothing.
    """

    agreement: float | None = None
    max_drop: float | None = None

    def met_by(self, parity: Parity) -> bool:
        """Says whether ``parity`` is good enough."""
        drop = drop_of(parity)
        if self.max_drop is not None and (drop is None or drop > self.max_drop):
            return False
        return self.agreement is None or parity.top1_agreement >= self.agreement


@dataclass(frozen=True)
class Subject:
    """What is quantised, and the images it is done with.

    Attributes:
        model: a sliced ViT.
        calibration: images that ranges are taken from, ``(N, H, W, C)``.
        images: images that candidates are compared on.
        logits: of the float model on them.
        labels: theirs, or None.
    """

    model: SlicedViT
    calibration: Images
    images: Images
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Candidate:
    """A quantised file that was tried."""

    recipe: Recipe
    graph: Graph
    path: Path
    parity: Parity


def as_it_is(graph: Graph) -> Graph:
    """Returns ``graph``."""
    return graph


@dataclass(frozen=True)
class Form:
    """How a model becomes a file of some format.

    Attributes:
        suffix: of the files.
        write: makes a graph the content of a file.
        rewrites: which exact rewrites suit the format.
        prepare: rewrites the float graph for an engine that lacks some operators, before it is observed.
        modes: says how each operator counts under a recipe.
    """

    suffix: str = ".tflite"
    write: Callable[[Graph], bytes] = tflite_bytes
    rewrites: Callable[[SlicedViT], Rewrites] = rewrites_for
    prepare: Callable[[Graph], Graph] = as_it_is
    modes: Callable[[Graph, Recipe], Mapping[str, Mode]] = modes_of


@dataclass
class Kitchen:
    """Builds candidates of one subject; what they share is computed once.

    Attributes:
        subject: what is quantised.
        folder: where candidates are written.
        form: of their files.
        kind: of file they are candidates for, for those who watch.
        progress: told of every step that takes long, and of every candidate how it did.
    """

    subject: Subject
    folder: Path
    form: Form = field(default_factory=Form)
    kind: str = "int8"
    progress: Progress = field(default=silent)
    tried: int = 0
    _scales: Scales | None = None
    _seen: dict[bool, tuple[Graph, dict[str, Stats]]] = field(default_factory=dict)

    def graph(self, equalised: bool) -> tuple[Graph, dict[str, Stats]]:
        """Returns the float graph, its attention's channels always equalised, and its activations.

        Args:
            equalised: the residual stream's channels are, too.
        """
        if equalised not in self._seen:
            scales = self._channels()
            scales = scales if equalised else replace(scales, stream=None)
            graph = self.form.prepare(vit_graph(self.subject.model, self.form.rewrites(self.subject.model), scales))
            self._seen[equalised] = graph, self._observed(graph)
        return self._seen[equalised]

    def _channels(self) -> Scales:
        """Returns what channels are divided by to be equally large."""
        if self._scales is None:
            model = self.subject.model
            plain = self.form.prepare(vit_graph(model, self.form.rewrites(model)))
            self._scales = equalising_scales(model.plan, plain, self._observed(plain))
        return self._scales

    def _observed(self, graph: Graph) -> dict[str, Stats]:
        stage, images = f"{self.kind} calibration", self.subject.calibration
        return observe(graph, images, tell=lambda done: self.progress(stage, done, len(images)))

    def quantised(self, recipe: Recipe) -> Graph:
        """Returns the graph that ``recipe`` makes."""
        return self._rounded(recipe, *self.graph(recipe.equalised))

    def quantised_from(self, recipe: Recipe, graph: Graph) -> Graph:
        """Returns the graph that ``recipe`` makes of a float one of the same operators and other weights."""
        return self._rounded(recipe, graph, self._observed(graph))

    def _rounded(self, recipe: Recipe, graph: Graph, seen: dict[str, Stats]) -> Graph:
        made = quantise(graph, self.form.modes(graph, recipe), seen, recipe.ranges)
        return correct_biases(made, seen, self.subject.calibration) if recipe.corrected else made

    def candidate(self, recipe: Recipe, graph: Graph | None = None) -> Candidate:
        """Writes the file of ``recipe`` and runs it."""
        started, images = time.monotonic(), self.subject.images
        self.graph(recipe.equalised)
        self.tried += 1
        stage = f"{self.kind} try {self.tried}"
        self.progress(stage, 0, len(images), recipe.name)
        graph = graph or self.quantised(recipe)
        path = self.folder / f"{recipe.name}{self.form.suffix}"
        path.write_bytes(self.form.write(graph))
        engine = open_engine(path, threads=torch.get_num_threads())
        logits = real_logits(engine, images, lambda done: self.progress(stage, done, len(images) + 1, recipe.name))
        parity = compare_logits(logits, self.subject.logits, self.subject.labels, "")
        said = f"{recipe.name}: {_said(parity)}, took {time.monotonic() - started:.1f} s"
        self.progress(stage, len(images) + 1, len(images) + 1, said)
        return Candidate(recipe, graph, path, parity)

    def sensitivities(self, recipe: Recipe) -> list[str]:
        """Returns the Linears, those first whose rounding alone changes the logits most."""
        graph, seen = self.graph(recipe.equalised)
        images = self.subject.images[:_SENSITIVITY_IMAGES]
        wanted = simulate(graph, images)
        modes = self.form.modes(graph, recipe)
        names = [op.output for op in graph.ops if op.kind in LINEAR and modes.get(op.output, "float") != "float"]
        errors = {}
        for done, name in enumerate(names):
            self.progress(f"{self.kind} layers", done, len(names), f"what rounding {name} alone costs")
            alone = quantise(graph, {name: modes[name]}, seen, replace(recipe.ranges, outside=False))
            errors[name] = float(np.square(simulate(alone, images) - wanted).sum())
        self.progress(f"{self.kind} layers", len(names), len(names))
        return sorted(errors, key=lambda name: -errors[name])


def _said(parity: Parity) -> str:
    """Returns how a candidate did, in words."""
    distance = "equal" if parity.sqnr_db is None else f"{parity.sqnr_db:.1f} dB"
    drop = drop_of(parity)
    lost = "" if drop is None else f", top-1 {-drop:+.2f} points"
    return f"agrees on {parity.top1_agreement:.1%} of {parity.images} images, SQNR {distance}{lost}"


def choose_fast(
    kitchen: Kitchen,
    recipes: Sequence[Recipe],
    wanted: Wanted,
    timer: Timer | None,
    holds: Callable[[Path], bool] = lambda path: True,
    family: Family | None = None,
) -> tuple[Candidate, tuple[Trial, ...]]:
    """Returns the fastest candidate that is good enough, or the most accurate where none is, and all that were tried.

    Recipes are tried as they are; where none is good enough, with the stream's channels equalised; and then with more
    and more of the most sensitive layers of the most accurate one left float.

    Args:
        kitchen: builds candidates.
        recipes: the one expected to be fastest first.
        wanted: what is good enough.
        timer: times files on the target; None goes by the order of ``recipes``.
        holds: a last check of a file, on other images; where it fails the next fastest is taken.
        family: of the processors that ``recipes`` are ordered for, to be kept with what was tried.
    """
    tried = [kitchen.candidate(recipe) for recipe in recipes]
    for stage in (_equalised, _partly_float):
        if any(wanted.met_by(one.parity) for one in tried):
            break
        for recipe in stage(kitchen, recipes, tried):
            tried.append(kitchen.candidate(recipe))
            if wanted.met_by(tried[-1].parity):
                break
    good = [one for one in tried if wanted.met_by(one.parity)]
    seconds: dict[str, float] = {}
    if timer is not None and len(good) > 1:
        seconds = dict(zip((one.recipe.name for one in good), timer([one.path for one in good]), strict=True))
        good = _fastest_first(good, seconds)
    chosen = next((one for one in good if holds(one.path)), None) or max(tried, key=score_of)
    return chosen, _trials(tried, seconds, family)


def _fastest_first(good: Sequence[Candidate], seconds: dict[str, float]) -> list[Candidate]:
    """Sorts candidates by time, and those as fast as the fastest by how close they are."""
    least = min(seconds.values())

    def rank(one: Candidate) -> tuple[float, float]:
        time = seconds[one.recipe.name]
        return (least if time <= least * (1 + _ALIKE) else time), -score_of(one)

    return sorted(good, key=rank)


def choose_accurate(kitchen: Kitchen, recipes: Sequence[Recipe]) -> tuple[Candidate, tuple[Trial, ...]]:
    """Returns the most accurate candidate of recipes that are equally fast, and all that were tried."""
    tried = [kitchen.candidate(recipe) for recipe in recipes]
    return max(tried, key=score_of), _trials(tried, {})


def drop_of(parity: Parity) -> float | None:
    """Returns the points of top-1 that were lost, or None where labels are unknown."""
    if parity.top1 is None or parity.reference_top1 is None:
        return None
    return 100 * (parity.reference_top1 - parity.top1)


def _equalised(kitchen: Kitchen, recipes: Sequence[Recipe], tried: Sequence[Candidate]) -> Iterator[Recipe]:
    for recipe in recipes:
        yield replace(recipe, name=f"{recipe.name}_equalised", equalised=True)


def _partly_float(kitchen: Kitchen, recipes: Sequence[Recipe], tried: Sequence[Candidate]) -> Iterator[Recipe]:
    best = max(tried, key=score_of).recipe
    layers = kitchen.sensitivities(best)
    for count in _FLOAT_LAYERS:
        if count < len(layers):
            yield replace(best, name=f"{best.name}_{count}_float", float_layers=tuple(layers[:count]))


def score_of(one: Candidate) -> float:
    """Returns what candidates are ranked by: how close their logits are to the float model's, dB.

    A few images more or fewer with the same top-1 are chance; the logits of all of them are not.
    """
    return np.inf if one.parity.sqnr_db is None else one.parity.sqnr_db


def _trials(tried: Sequence[Candidate], seconds: dict[str, float], family: Family | None = None) -> tuple[Trial, ...]:
    return tuple(trial_of(one, seconds.get(one.recipe.name), family) for one in tried)


def trial_of(one: Candidate, latency_s: float | None = None, family: Family | None = None) -> Trial:
    """Returns what a manifest keeps of a candidate, for a family also what its place in the order went by."""
    parity = one.parity
    return Trial(
        recipe=one.recipe.name,
        images=parity.images,
        top1_agreement=parity.top1_agreement,
        top1_drop=drop_of(parity),
        sqnr_db=parity.sqnr_db,
        latency_s=latency_s,
        instructions_of_fp32=None if family is None else instructions_of_fp32(family, one.recipe),
    )
