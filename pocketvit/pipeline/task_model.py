"""What ``--task`` makes of an architecture: its weights as they are asked for, and the plan of what it answers with."""

from __future__ import annotations

from dataclasses import replace

from compress.model.embedder import embedder_plan, embedding_spec, grid_plan
from compress.model.load import ModelSpec, check_model, resolved
from pocketvit.settings import RunSettings
from runtime import ShapePlan


def spec_of_task(settings: RunSettings, spec: ModelSpec) -> ModelSpec:
    """Returns the spec of a named model, without the classifier or the projection that its task does without.

    Raises:
        ModelError: the repository or folder cannot be read.
    """
    if settings.task == "dense":
        return resolved(replace(spec, reset_head=True))
    return embedding_spec(spec) if settings.embeds else resolved(spec)


def plan_of_task(settings: RunSettings, spec: ModelSpec, classes: int) -> ShapePlan:
    """Returns the plan of the model that a run starts from.

    Args:
        settings: of the run.
        spec: what ``spec_of_task`` returned.
        classes: number of classes, for a classifier.

    Raises:
        ModelError: the name is unknown, or the architecture is not supported.
        PlanError: the vector cannot be so long, or there is no such block.
    """
    if settings.task == "dense":
        return grid_plan(spec, settings.blocks)
    if settings.task == "embed":
        return embedder_plan(spec, settings.output, settings.embed_dim)
    return check_model(spec, classes)
