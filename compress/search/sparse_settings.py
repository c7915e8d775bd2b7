"""Settings of unstructured magnitude pruning. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from runtime import PlanError, check_fields
from runtime.options import Option

SparseLayer = Literal["qkv", "proj", "fc1", "fc2"]
SparseScope = Literal["layer", "global"]

SPARSE_LAYERS: tuple[SparseLayer, ...] = get_args(SparseLayer)
"""The Linears of a block: query, key and value; the output projection; the two of the MLP."""

SPARSE_SCOPES: tuple[SparseScope, ...] = get_args(SparseScope)


@dataclass(frozen=True)
class SparseSettings:
    """Which weights ``unstructured`` makes zero; each field's ``Option`` describes it.

    Raises:
        PlanError: a value is of another type or out of range.
    """

    sparsity: Annotated[
        float, Option("unstructured: share of the weights that become zeros, more than 0 and less than 1.")
    ] = 0.9
    scope: Annotated[
        SparseScope,
        Option(
            "unstructured: layer takes this share of each matrix (query, key and value are three), global of all "
            "matrices ranked together.",
            name="--sparsity-scope",
        ),
    ] = "layer"
    layers: Annotated[
        tuple[SparseLayer, ...],
        Option("unstructured: layers whose weights become zeros, comma-separated.", name="--sparsity-layers"),
    ] = SPARSE_LAYERS

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.sparsity < 1:
            raise PlanError("The sparsity is a share", expected="more than 0 and less than 1", got=self.sparsity)
        if not self.layers:
            raise PlanError("There is no layer to prune", expected=f"some of {', '.join(SPARSE_LAYERS)}", got="none")
