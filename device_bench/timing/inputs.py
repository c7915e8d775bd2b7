"""The random input that a file is measured with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import ArtifactError, Engine


def input_shape(engine: Engine, name: str) -> tuple[int, ...]:
    """Returns the shape to measure a loaded file with: its own, a free batch being 1.

    Args:
        engine: the loaded file.
        name: name of the file, for the error text.

    Raises:
        ArtifactError: another dimension than the batch is free.
    """
    shape = engine.input_shape
    if not shape or any(size < 1 for size in shape[1:]):
        raise ArtifactError(
            f"The input of {name} has no fixed size",
            expected="dimensions of which only the batch is free",
            got=shape,
            fix="Export it with a fixed image size",
        )
    return (max(1, shape[0]), *shape[1:])


def random_input(engine: Engine, name: str, seed: int) -> npt.NDArray[Any]:
    """Returns a seeded input: standard normal for floats, uniform over the whole range for integers.

    Zeros would flatter a model: some kernels skip them.

    Args:
        engine: the loaded file.
        name: name of the file, for the error text.
        seed: the same seed gives the same input.

    Raises:
        ArtifactError: another dimension than the batch is free.
    """
    rng, dtype, shape = np.random.default_rng(seed), engine.input_dtype, input_shape(engine, name)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)
