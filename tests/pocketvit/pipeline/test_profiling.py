from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from device_bench.timing.isolated import Samples
from export.formats.tflite import timing_bytes
from export.quantise.recipes import DYNAMIC, STATIC_ATTENTION, Recipe
from pocketvit.pipeline import profiling
from runtime import LATENCY_DOCUMENT, BlockPlan, LatencyPrecision, LatencyTable, ShapePlan, decode, encode, latency_of
from tests.tables import model_ns

PLAN = ShapePlan((32, 32), (8, 8), 1, 10, 32, (BlockPlan(2, 16, 16, 64),) * 2, 0.25)
BUDGET = 0.85
BUSY = "Other processes took 87% of a core while it was measured."

Disturbed = Callable[[int], bool]


def never(call: int) -> bool:
    return False


class Machine:
    """A made-up machine that something disturbs at some calls, where everything takes twice as long.

    Something that it does not see itself makes it slower for a while.
    """

    def __init__(self, disturbed: Disturbed, slower: Disturbed) -> None:
        self.disturbed, self.slower, self.calls = disturbed, slower, 0

    def samples(self, files: Sequence[Path], *, threads: int, rounds: int) -> Samples:
        busy, slow, self.calls = self.disturbed(self.calls), self.slower(self.calls), self.calls + 1
        told = [json.loads(file.read_text()) for file in files]
        ns = [model_ns(decode(ShapePlan, plan, "a plan"), pooled_only) for plan, pooled_only in told]
        seconds = tuple((one * (2e-9 if busy else 1e-9) * (1.3 if slow else 1),) * rounds for one in ns)
        return Samples(seconds, (BUSY,) if busy else ())


def profiled(
    monkeypatch: pytest.MonkeyPatch, folder: Path, disturbed: Disturbed = never, slower: Disturbed = never
) -> tuple[LatencyTable, Path, int, list[str]]:
    machine, said = Machine(disturbed, slower), []

    def told(plan: ShapePlan, precision: str, *, pooled_only: bool) -> bytes:
        return json.dumps([encode(plan), pooled_only]).encode()

    monkeypatch.setattr(profiling, "timing_bytes", told)
    monkeypatch.setattr(profiling, "time_together", lambda target: machine.samples)
    table, path = profiling.profile(
        PLAN, folder, progress=lambda stage, done, total, note="": said.append(note) if note else None
    )
    return table, path, machine.calls, said


def test_a_quiet_machine_gets_no_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table, path, _, said = profiled(monkeypatch, tmp_path)
    assert table.notes == ()
    assert said == []
    assert "notes" not in path.with_suffix(".jsonl").read_text()


def test_a_while_in_which_the_machine_is_slower_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steady, _, calls, _ = profiled(monkeypatch, tmp_path / "steady")
    table, path, _, _ = profiled(monkeypatch, tmp_path / "slower", slower=lambda call: call > 0.7 * calls)
    predict, usual = latency_of(table), latency_of(steady)
    assert predict(PLAN) == pytest.approx(usual(PLAN), rel=1e-3)
    narrow = replace(PLAN, embed_dim=16, blocks=(BlockPlan(1, 8, 8, 16),) * 2)
    assert predict(narrow) == pytest.approx(usual(narrow), rel=1e-2)
    assert (
        len({json.loads(line)["reference_seconds"] for line in path.with_suffix(".jsonl").read_text().splitlines()})
        == 2
    )


def test_what_was_disturbed_for_a_moment_is_timed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quiet, _, calls, _ = profiled(monkeypatch, tmp_path / "quiet")
    table, _, more, said = profiled(monkeypatch, tmp_path / "moment", lambda call: call in (0, 5))
    assert table == quiet
    assert more == calls + 2
    assert said == [f"measured again: {BUSY}"] * 2


def test_what_stays_disturbed_is_said_and_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, _, calls, _ = profiled(monkeypatch, tmp_path / "quiet")
    table, path, more, said = profiled(monkeypatch, tmp_path / "busy", lambda call: True)
    assert said == [f"measured again: {BUSY}"] * 2  # once for the parts, once for whole models
    assert more == calls + 2
    (note,) = table.notes
    assert note.startswith("100% of the latency table's times were taken while the machine was disturbed")
    assert BUSY in note
    assert "pocketvit profile --force" in note
    assert LATENCY_DOCUMENT.read(path).notes == table.notes


def test_the_share_that_was_disturbed_is_said_of_a_table_taken_up_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, path, calls, _ = profiled(monkeypatch, tmp_path, lambda call: 0 < call < 3)
    path.unlink()
    table, _, more, _ = profiled(monkeypatch, tmp_path)
    assert more == 0 < calls
    lines = path.with_suffix(".jsonl").read_text().splitlines()
    share = sum("notes" in json.loads(line) for line in lines) / len(lines)
    assert 0 < share < 0.5
    assert table.notes[0].startswith(f"{share:.0%} of the latency table's times")


class OtherMachine:
    """A made-up machine on which smaller models take longer than a table says, by a share of what they save.

    Each takes a little more or less, as the width of its MLPs decides.
    """

    def __init__(self, table: LatencyTable, longer: float, rough: float, disturbed: Disturbed) -> None:
        self.disturbed, self.calls = disturbed, 0
        self.predict, self.whole, self.longer, self.rough = latency_of(table), table.baseline, longer, rough
        self.timed: list[ShapePlan] = []

    def share(self, plan: ShapePlan) -> float:
        own = self.predict(plan) / self.predict(self.whole)
        if plan == self.whole:
            return 1.0
        return (own + self.longer * (1 - own) ** 2) * (1 + self.rough * math.sin(sum(b.mlp_dim for b in plan.blocks)))

    def samples(self, files: Sequence[Path], *, threads: int, rounds: int) -> Samples:
        told = [json.loads(file.read_text()) for file in files]
        plans = [(decode(ShapePlan, plan, "a plan"), recipe) for plan, recipe in told]
        self.timed += [plan for plan, _ in plans if plan not in (*self.timed, self.whole)]
        busy, self.calls = self.disturbed(self.calls), self.calls + 1
        seconds = tuple((self.seconds(plan, recipe),) * rounds for plan, recipe in plans)
        return Samples(seconds, (BUSY,) if busy else ())

    def seconds(self, plan: ShapePlan, recipe: str) -> float:
        """What dynamic recipes take is longer, and less of it is saved."""
        return 0.003 * self.share(plan) + (0.001 if recipe == DYNAMIC.name else 0.0)


def corrected(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    longer: float,
    rough: float = 0.0,
    precision: LatencyPrecision = "fp32",
    disturbed: Disturbed = never,
) -> tuple[LatencyTable, OtherMachine, list[LatencyTable], Callable[[LatencyTable], tuple[ShapePlan, int]]]:
    table = replace(profiled(monkeypatch, folder)[0], precision=precision)
    machine, kept = OtherMachine(table, longer, rough, disturbed), []  # type: tuple[OtherMachine, list[LatencyTable]]
    narrow = range(8, 65, 8)
    blocks = [tuple(BlockPlan(1, 8, 8, mlp) for mlp in pair) for pair in product(narrow, narrow)]
    plans = [replace(PLAN, embed_dim=width, blocks=pair) for width in (8, 16, 24, 32) for pair in blocks]

    def choose(own: LatencyTable) -> tuple[ShapePlan, int]:
        predict = latency_of(own)
        limit = round(BUDGET * predict(PLAN))
        return max((one for one in plans if predict(one) <= limit), key=predict), limit

    def told(plan: ShapePlan, precision: str, *, recipe: Recipe) -> bytes:
        return json.dumps([encode(plan), recipe.name]).encode()

    monkeypatch.setattr(profiling, "timing_bytes", told)
    monkeypatch.setattr(profiling, "time_together", lambda target: machine.samples)
    return profiling.correct_by_choice(table, choose, kept.append), machine, kept, choose


@pytest.mark.parametrize("rough", [0.0, 0.01, 0.02])
def test_a_table_is_corrected_until_its_choice_takes_the_time_of_the_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rough: float
) -> None:
    table, machine, kept, choose = corrected(monkeypatch, tmp_path, longer=1.2, rough=rough)
    assert machine.share(machine.timed[0]) > 1.01 * BUDGET
    assert latency_of(table)(PLAN) == pytest.approx(3e6, rel=1e-3)
    plan, _ = choose(table)
    assert plan in machine.timed
    assert machine.share(plan) <= 1.001 * BUDGET
    assert machine.share(plan) == max(own for own in map(machine.share, machine.timed) if own <= 1.001 * BUDGET)
    assert [anchor.plan for anchor in table.anchors] == machine.timed
    assert len(machine.timed) <= 5
    assert kept[-1] == table


def test_a_budget_that_no_timed_choice_keeps_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(OtherMachine, "share", lambda self, plan: 1.0 if plan == self.whole else 1.01 * BUDGET)
    table, machine, kept, _ = corrected(monkeypatch, tmp_path, longer=0.0)
    (note,) = table.notes
    assert note.startswith("Of the models timed near the budget none is within it; the nearest takes 101.0% of it")
    assert len(machine.timed) == len(table.anchors) == 5
    assert kept[-1] == table


def test_a_choice_that_was_timed_on_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quiet, machine, *_ = corrected(monkeypatch, tmp_path / "quiet", longer=0.0)
    assert quiet.notes == ()
    table, *_ = corrected(monkeypatch, tmp_path / "busy", longer=0.0, disturbed=lambda call: True)
    assert table.notes == (f"A model near the budget was timed while the machine was disturbed. {BUSY}",)
    moment, again, *_ = corrected(monkeypatch, tmp_path / "moment", longer=0.0, disturbed=lambda call: call == 6)
    assert moment == quiet
    assert again.calls == machine.calls + 1


def test_an_int8_file_is_within_the_budget_by_either_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table, machine, _, choose = corrected(monkeypatch, tmp_path, longer=0.0, precision="int8")
    assert latency_of(table)(PLAN) == pytest.approx(4e6, rel=1e-3)
    plan, _ = choose(table)
    for recipe in (STATIC_ATTENTION.name, DYNAMIC.name):
        assert machine.seconds(plan, recipe) <= 1.001 * BUDGET * machine.seconds(PLAN, recipe)
    assert machine.seconds(plan, DYNAMIC.name) > 0.96 * BUDGET * machine.seconds(PLAN, DYNAMIC.name)


def test_a_corrected_table_is_not_corrected_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table, machine, kept, choose = corrected(monkeypatch, tmp_path, longer=1.2)
    before = len(machine.timed), len(kept)
    assert profiling.correct_by_choice(table, choose, kept.append) == table
    assert (len(machine.timed), len(kept)) == before


def test_a_correction_that_was_stopped_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table, machine, kept, choose = corrected(monkeypatch, tmp_path, longer=1.2)
    assert len(table.anchors) > 1
    machine.timed.clear()
    again = profiling.correct_by_choice(kept[0], choose, kept.append)
    assert [anchor.plan for anchor in table.anchors[1:]] == machine.timed
    assert again == table


def test_a_table_whose_choice_takes_the_budget_is_scaled_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table, machine, _, _ = corrected(monkeypatch, tmp_path, longer=0.0)
    assert len(machine.timed) == len(table.anchors) == 1
    assert latency_of(table)(PLAN) == pytest.approx(3e6, rel=1e-3)


def test_tables_of_other_files_are_looked_for_under_another_name() -> None:
    """Where this fails the files that are timed have changed: raise ``_FORMAT``, then renew the digest here."""
    digests = []
    for precision in get_args(LatencyPrecision):
        model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(timing_bytes(PLAN, precision), 0))
        graph = model.subgraphs[0]
        shapes = [tuple(map(int, np.atleast_1d(tensor.shape))) for tensor in graph.tensors]
        codes = [code.builtinCode for code in model.operatorCodes]
        operators = [(codes[op.opcodeIndex], [shapes[i] for i in (*op.inputs, *op.outputs)]) for op in graph.operators]
        digests.append(hashlib.sha256(repr(operators).encode()).hexdigest()[:12])
    assert (profiling._FORMAT, *digests) == (5, "3229631c8902", "d0546e110921")
