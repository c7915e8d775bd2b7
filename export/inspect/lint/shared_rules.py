"""Rules that hold for several engines."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from export.graph.file_model import FileModel

from .base import LintFinding, Rule, computed, first_output, label


def dynamic_shapes(model: FileModel) -> Iterator[LintFinding]:
    """Yields inputs and outputs with a free dimension, and operators whose output has one."""
    cure = "Export it with fixed sizes, one image at a time"
    for side, keys in (("input", model.inputs), ("output", model.outputs)):
        for key in keys:
            tensor = model.tensors[key]
            if _free(tensor.shape):
                yield LintFinding("dynamic shape", side, tensor.name, f"the shape {tensor.shape}", cure)
    for number, op in computed(model):
        tensor = first_output(model, op)
        if _free(tensor.shape):
            yield LintFinding("dynamic shape", label(number, op), tensor.name, f"the shape {tensor.shape}", cure)


def _free(shape: tuple[int, ...] | None) -> bool:
    return shape is None or any(size < 0 for size in shape)


def rank_at_most(most: int, why: str) -> Rule:
    """Returns the rule that no tensor that is computed or read has more dimensions.

    Args:
        most: the largest number of dimensions.
        why: what happens to a file that has more.
    """

    def rule(model: FileModel) -> Iterator[LintFinding]:
        for number, op in computed(model):
            for key in (*op.inputs, *op.outputs):
                tensor = model.tensors.get(key) if key is not None else None
                if tensor is not None and tensor.shape is not None and len(tensor.shape) > most:
                    cure = f"Write it with at most {most} dimensions: {why}"
                    yield LintFinding("rank", label(number, op), tensor.name, f"the shape {tensor.shape}", cure)
                    break

    return rule


def operators_among(known: Collection[str], cure: str) -> Rule:
    """Returns the rule that every operator that runs is one of ``known``.

    Args:
        known: TFLite's names of the operators.
        cure: what to do about another one.
    """

    def rule(model: FileModel) -> Iterator[LintFinding]:
        for number, op in computed(model):
            if op.kind not in known:
                tensor = first_output(model, op)
                yield LintFinding("operator", label(number, op), tensor.name, "an operator it does not have", cure)

    return rule
