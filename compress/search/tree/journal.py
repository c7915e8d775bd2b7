"""The journal of a tree search: one JSON line per operation, from which a killed search is resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compress.model.slicing import KeptBlock, KeptUnits, keep_all, plan_of
from compress.search.one_shot import Action, GroupRemoval
from runtime import ArtifactError, PlanError, ShapePlan
from runtime.storage.journals import TREE_JOURNAL


class TreeJournal:
    """Records the operations of a search in order, and replays those that an earlier process recorded.

    A search is deterministic, so that its n-th operation is the n-th line. Recorded lines give the outcome of their
    operations; the others are computed and recorded. An incomplete last line is dropped.

    Args:
        path: the ``.jsonl`` file.
        settings: what identifies the search, JSON values; the journal of another search is overwritten.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        header = {"settings": dict(settings)}
        self._recorded: deque[dict[str, Any]] = deque()
        with suppress(ArtifactError):  # what comes before a damaged line is kept
            found, lines = TREE_JOURNAL.read(path)
            for _, line in lines if found == header else ():
                self._recorded.append(line)
        TREE_JOURNAL.write(path, header, self._recorded)

    def replay(self, operation: str) -> dict[str, Any] | None:
        """Returns the next recorded line; None where all were replayed.

        Raises:
            ArtifactError: the next line records another operation.
        """
        if not self._recorded:
            return None
        entry = self._recorded.popleft()
        if entry.get("op") != operation:
            raise ArtifactError(
                f"{self._path} does not fit the search", expected=operation, got=entry.get("op"), fix="Remove it"
            )
        return entry

    def record(self, entry: Mapping[str, Any]) -> None:
        """Appends a line.

        Raises:
            StorageError: the file cannot be written.
        """
        TREE_JOURNAL.append(self._path, entry)


def removed_units(plan: ShapePlan, removal: GroupRemoval) -> Any:
    """Returns the units that a removal takes from a whole model of ``plan``, as JSON.

    The result is a list of units (``mlp``, ``embed``), a list of units per head (``qk``, ``v``), or a head's index.
    """
    if removal.action == "embed":
        return sorted(set(range(plan.embed_dim)) - set(removal.kept.embed))
    block, keep = plan.blocks[removal.block], removal.kept.blocks[removal.block]
    if removal.action == "mlp":
        return sorted(set(range(block.mlp_dim)) - set(keep.mlp))
    if removal.action == "head":
        return min(set(range(block.num_heads)) - set(keep.heads))
    width, per_head = (block.qk_dim, keep.qk) if removal.action == "qk" else (block.v_dim, keep.v)
    return [sorted(set(range(width)) - set(dims)) for dims in per_head]


def removal_of(plan: ShapePlan, action: Action, block: int, importance: float, removed: Any) -> GroupRemoval:
    """Returns the removal of units that ``removed_units`` returned.

    Raises:
        ArtifactError: the units do not fit the plan.
    """
    whole = keep_all(plan)
    try:
        if action == "embed":
            kept = KeptUnits(_without(whole.embed, removed), whole.blocks)
        else:
            keep = _block_without(whole.blocks[block], action, removed)
            kept = KeptUnits(whole.embed, (*whole.blocks[:block], keep, *whole.blocks[block + 1 :]))
        plan_of(plan, kept)
    except (PlanError, IndexError, TypeError, ValueError) as error:
        raise ArtifactError("A journal's removal does not fit the model", got=error) from error
    return GroupRemoval(action, block, importance, kept)


def _block_without(keep: KeptBlock, action: Action, removed: Any) -> KeptBlock:
    if action == "mlp":
        return KeptBlock(keep.heads, keep.qk, keep.v, _without(keep.mlp, removed))
    if action == "head":
        stay = [i for i in keep.heads if i != removed]
        return KeptBlock(tuple(stay), tuple(keep.qk[i] for i in stay), tuple(keep.v[i] for i in stay), keep.mlp)
    per_head = keep.qk if action == "qk" else keep.v
    dims = tuple(_without(own, gone) for own, gone in zip(per_head, removed, strict=True))
    return (
        KeptBlock(keep.heads, dims, keep.v, keep.mlp)
        if action == "qk"
        else KeptBlock(keep.heads, keep.qk, dims, keep.mlp)
    )


def _without(units: tuple[int, ...], removed: list[int]) -> tuple[int, ...]:
    gone = set(removed)
    return tuple(unit for unit in units if unit not in gone)
