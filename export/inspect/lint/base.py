"""What a linter finds, and what it knows of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from export.graph.file_model import FileModel, FileOp, FileTensor


@dataclass(frozen=True)
class LintFinding:
    """Something in a file that an engine refuses, computes wrongly or computes slowly.

    Attributes:
        rule: what it breaks, in a few words.
        op: type of the operator with its number in the file, or ``input`` or ``output``.
        tensor: name of the tensor; empty where the file has none.
        found: what was found there.
        cure: what to do.
        count: number of operators of this type that break the rule; the first of them is described.
    """

    rule: str
    op: str
    tensor: str
    found: str
    cure: str
    count: int = 1


Rule = Callable[[FileModel], Iterable[LintFinding]]


@dataclass(frozen=True)
class LintedEngine:
    """An engine that files are linted for.

    Attributes:
        name: value of ``--for``.
        title: of the engine in texts.
        rules: functions that look at a file's operators and tensors.
        delegate: whether LiteRT is asked which operators XNNPACK leaves.
        half: returns whether the engine computes this file in float16, so that overflow is looked for.
        newton: whether its reciprocal root squares its estimate, see ``Arithmetic``.
    """

    name: str
    title: str
    rules: tuple[Rule, ...]
    delegate: bool = False
    half: Callable[[FileModel], bool] = lambda _: False
    newton: bool = False


def counted_findings(findings: Iterable[LintFinding]) -> tuple[LintFinding, ...]:
    """Returns findings with those of one rule, one type of operator and one cure as one, with their number."""
    found: dict[tuple[str, str, str], LintFinding] = {}
    for own in findings:
        key = own.rule, own.op.partition(" ")[0], own.cure
        before = found.get(key)
        found[key] = own if before is None else replace(before, count=before.count + own.count)
    return tuple(found.values())


def label(number: int, op: FileOp) -> str:
    """Returns an operator's type with its number in the file."""
    return f"{op.kind} #{number}"


def constants(model: FileModel) -> set[str]:
    """Returns the keys of stored tensors, and of those that are computed from stored ones alone."""
    found = {key for key, tensor in model.tensors.items() if tensor.stored is not None}
    for op in model.ops:
        given = [name for name in op.inputs if name is not None]
        if given and all(name in found for name in given):
            found.update(op.outputs)
    return found


def computed(model: FileModel) -> Iterator[tuple[int, FileOp]]:
    """Yields the operators that run for every image, with their numbers."""
    known = constants(model)
    for number, op in enumerate(model.ops):
        if not set(op.outputs) <= known:
            yield number, op


def first_output(model: FileModel, op: FileOp) -> FileTensor:
    """Returns the first output of an operator; an unnamed scalar where there is none."""
    return model.tensors[op.outputs[0]] if op.outputs else FileTensor("", ())
