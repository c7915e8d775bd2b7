"""What a run without labels cannot do."""

from __future__ import annotations

from runtime import PlanError


def check_no_drop(max_drop: float | None) -> None:
    """Refuses a limit of lost top-1 where there are no labels.

    Raises:
        PlanError: there is such a limit.
    """
    if max_drop is not None:
        raise PlanError(
            "Labels alone can tell how much top-1 an integer file loses",
            expected="no --max-drop",
            got=max_drop,
            fix="Give --min-agreement, which needs no labels",
        )


def check_label_free(
    *, max_drop: float | None, class_order: str, reset_head: bool, epochs: int | None, recovers_alone: bool
) -> None:
    """Refuses settings that need labels.

    Args:
        max_drop: most points of top-1 that an integer file may lose.
        class_order: order of the classes of an image folder.
        reset_head: whether a new classifier is trained.
        epochs: epochs of the first training.
        recovers_alone: whether the recovery has no teacher.

    Raises:
        PlanError: one of them is set.
    """
    check_no_drop(max_drop)
    if class_order:
        raise PlanError(
            "Without labels there are no classes to order",
            expected="no --class-order",
            fix="Name the classes of the model's outputs with --class-map",
        )
    if reset_head:
        raise PlanError("--reset-head trains a new classifier, which needs labels", expected="no --reset-head")
    if epochs:
        raise PlanError(
            "The first training needs labels",
            expected="no --epochs, or --epochs 0",
            got=epochs,
            fix="Leave it out: without labels, the weights are taken as they are",
        )
    if recovers_alone:
        raise PlanError(
            "Without labels, the recovery learns from the whole model alone",
            expected="no --no-distill, or --recovery-epochs 0",
        )
