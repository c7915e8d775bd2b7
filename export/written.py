"""How one file of an export was written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime import HalfArithmetic, Trial


@dataclass(frozen=True)
class Written:
    """How a file was written.

    Attributes:
        recipe: its name.
        trials: every recipe that was tried.
        int8_weights: names of the weights that stay int8 in a file with weights of 4 bits.
        half: whether the file lets engines compute in float16; None for a kind that is not meant for it.
        answers: the file's logits on the images of the first look, ``(N, classes)``, where the choice ran it on them.
    """

    recipe: str
    trials: tuple[Trial, ...] = ()
    int8_weights: tuple[str, ...] = ()
    half: HalfArithmetic | None = None
    answers: npt.NDArray[np.float32] | None = None
