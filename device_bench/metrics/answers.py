"""Whether the answers of a file on a target were compared with anything; a time does not say that they are right."""

from __future__ import annotations

from .base import Measured, Metric, column

UNCHECKED = "not checked"
"""Value where the program that measures gives no answers back."""


def checked_answers(measured: Measured) -> str | None:
    """Returns what is known of a file's answers on a target; None where nobody has reason to doubt them."""
    return measured.get("answers", str)


ANSWERS = Metric(
    name="answers",
    title="answers",
    type=str,
    emulated=True,
    optional=False,
    columns=(column("Answers", checked_answers, words=True),),
    note=lambda measured: (
        "A GPU or an NPU that computes wrongly is no slower for it. These files gave no answers back."
        if any(checked_answers(own) == UNCHECKED for own in measured)
        else "Browsers answered pictures, and their answers were compared with those of this machine's CPU."
    ),
)
