"""How a run without labels is prepared: its weights must answer already, and it learns from them alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.data.class_order import read_class_map
from compress.distill.settings import Distillation, DistillMethod
from compress.model.checkpoint_fit import LoadReport
from compress.model.load import ModelSpec, published_classes
from pocketvit.settings import RunSettings
from runtime import DataError, ModelError, PlanError

NO_LABELS = "the run reads no labels"
"""Why a figure that needs labels is missing."""

NO_CLASSES = "the model answers with a {}, not with classes"
"""Why a figure that needs classes is missing, with a word for what the model answers with."""


def left_out_classifier(spec: ModelSpec, known: int | None, task: str = "embed") -> tuple[str, ...]:
    """Returns a note on a classifier that a model which answers with vectors, or by texts, does without.

    Args:
        spec: architecture and weights.
        known: number of classes of the checkpoint's classifier; None without one.
        task: ``embed``; ``dense`` where a projection is left out, too; ``classify`` for a classifier by texts.
    """
    classes = (known if spec.checkpoint else published_classes(spec) if spec.pretrained else None) or 0
    if not spec.reset_head or not classes:
        return ()
    if task == "dense":
        return (f"The head of {classes} outputs is left out: the model answers with the tokens of its patches",)
    if task == "classify":
        return (f"The classifier of {classes} classes is left out: the text embeddings take its place",)
    return (f"The classifier of {classes} classes is left out: the model answers with the vector that it reads",)


def check_answers_already(spec: ModelSpec, report: LoadReport | None, vectors: bool = False) -> None:
    """Refuses weights that do not answer before a training, since nothing trains them without labels.

    Args:
        spec: architecture and weights.
        report: how the checkpoint fits the architecture; None without a checkpoint.
        vectors: whether the model answers with the vector that its classifier would read, and needs none.

    Raises:
        ModelError: the weights are fresh, or have no classifier.
    """
    fix = "Give trained weights with --checkpoint FILE or --pretrained, or train them with labels first"
    if report is None and not spec.pretrained:
        raise ModelError(
            f"The model '{spec.name}' has fresh weights, and without labels nothing trains them",
            expected="weights that already answer",
            fix=fix,
        )
    headless = report.classes is None if report else not published_classes(spec)
    if headless and not vectors:
        where = f"The checkpoint {spec.checkpoint}" if report else f"The published weights of '{spec.name}'"
        has = "has" if report else "have"
        raise ModelError(
            f"{where} {has} no classifier, and without labels nothing trains one",
            expected="weights that already answer",
            fix=fix,
        )


def named_outputs(settings: RunSettings, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of the model's outputs: those of ``--class-map`` if it is given, else ``names``.

    Raises:
        DataError: the class map names another number of classes.
    """
    if settings.class_map is None:
        return names
    path = Path(settings.class_map).expanduser()
    asked = read_class_map(path)
    if len(asked) != len(names):
        raise DataError(
            f"The class map {path} does not name the outputs of the model", expected=len(names), got=len(asked)
        )
    return asked


def without_labels(lesson: Distillation) -> Distillation:
    """Returns the lesson of a recovery without labels: all weight is the teacher's, and tokens join its answers.

    Raises:
        PlanError: no method of the lesson has a teacher.
    """
    if not lesson.needs_teacher:
        raise PlanError(
            "Self-distillation learns from labels, too, and there are none",
            expected="--distill-method with response, feature, relation or tokens",
            got=", ".join(lesson.methods),
        )
    added: tuple[DistillMethod, ...] = ()
    if "response" in lesson.methods and "tokens" not in lesson.methods:
        added = ("tokens",)
    return replace(lesson, methods=(*lesson.methods, *added), weight=1.0)
