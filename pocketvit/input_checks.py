"""Refuses inputs that no model reads: sizes, pixel statistics and crops."""

from __future__ import annotations

from collections.abc import Mapping

from runtime import PlanError

_MOST_STATISTIC = 1.5
"""No mean or standard deviation of pixels 0..1 is larger; those of pixels 0..255 are."""


def check_input(
    sizes: Mapping[str, int | tuple[int, int] | None],
    statistics: Mapping[str, tuple[float, ...] | None],
    resize: str | None,
    crop_pct: float | None,
) -> None:
    """Refuses sizes, pixel statistics and crops that no model reads.

    Args:
        sizes: sides in pixels by the option that gives them.
        statistics: means and standard deviations of pixels 0..1 by the option that gives them.
        resize: how a picture becomes the model's size.
        crop_pct: share of the scaled picture that is kept.

    Raises:
        PlanError: a value is out of range.
    """
    sides = [(option, side) for option, own in sizes.items() for side in (own if isinstance(own, tuple) else (own,))]
    for option, value in sides:
        if value is not None and value < 1:
            raise PlanError(f"{option} must be positive", expected="1 or more pixels", got=value)
    for option, values in statistics.items():
        if values and max(values) > _MOST_STATISTIC:
            raise PlanError(
                f"{option} is of pixels between 0 and 1, and these are values of pixels between 0 and 255",
                expected=f"at most {_MOST_STATISTIC}",
                got=",".join(f"{value:g}" for value in values),
                fix=f"Divide them by 255: {option} {','.join(f'{value / 255:.4g}' for value in values)}",
            )
    if crop_pct is not None and not 0.01 <= crop_pct <= 1:
        raise PlanError("--crop-pct is a share", expected="0.01 to 1", got=crop_pct)
    if resize == "stretch" and crop_pct not in (None, 1):
        raise PlanError(
            "--resize stretch crops nothing",
            expected="no --crop-pct",
            got=crop_pct,
            fix="Scale both sides and crop with --resize squash",
        )
