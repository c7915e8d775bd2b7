"""What a run with ``--text-embeddings`` cannot do."""

from __future__ import annotations

from runtime import PlanError


def check_zero_shot(model: str, task: str, *, class_map: bool, class_order: bool, reset_head: bool) -> None:
    """Refuses settings that do not fit a classifier whose classes are texts.

    Args:
        model: name of the model; empty for the built-in one.
        task: what the model is for.
        class_map: whether a file names the classes.
        class_order: whether an order of the classes is given.
        reset_head: whether a new classifier is to be trained.

    Raises:
        PlanError: one of them does not fit.
    """
    if task != "classify":
        raise PlanError(
            "--text-embeddings makes a classifier of an image tower",
            expected="no --task, or --task classify",
            got=f"--task {task}",
        )
    if not model:
        raise PlanError(
            "--text-embeddings needs the image tower of a model that was trained with texts",
            expected="--model with a CLIP or SigLIP of timm, hf:OWNER/NAME, or a folder",
        )
    given = {"--class-map": class_map, "--class-order": class_order, "--reset-head": reset_head}
    named = [name for name, there in given.items() if there]
    if named:
        raise PlanError(
            "The text embeddings are the classes, in the order of the outputs",
            expected=f"no {' and no '.join(named)} with --text-embeddings",
        )
