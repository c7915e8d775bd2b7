import json
import math
import random
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from device_bench.gate.duel import BLOCKS, MAX_ROUNDS, Duel, DuelRound, Rules, duel, fight
from device_bench.worker.isolated import run_isolated
from runtime import MeasurementError, PocketVitError

TINY = Path(__file__).parents[2] / "golden" / "tiny-fp32.tflite"


class World:
    """A clock that runners move on, and the log of who loads (upper case) and who runs."""

    def __init__(self, base_ns: int, new_ns: int, drift: float = 0.0, luck: float = 0.0) -> None:
        self.now, self.log, self.drift, self.luck = 0, "", drift, luck
        self.cost = {"b": base_ns, "n": new_ns}

    def clock(self) -> int:
        return self.now

    def loader(self, name: str):
        def load():
            # who loads first lies better in memory
            place = 1.0 if len(self.log) and self.log[-1].isupper() else 1.0 + self.luck
            self.log += name.upper()

            def run() -> None:
                self.log += name
                self.now += round(self.cost[name] * place * (1 + self.drift * self.now * 1e-9))

            return run

        return load


def rounds_of(world: World, seed: int = 0, seconds: float = 2.0) -> tuple[DuelRound, ...]:
    return fight(world.loader("b"), world.loader("n"), seconds, random.Random(seed), world.clock)


def test_rounds_hold_the_ratio():
    for one in rounds_of(World(2_000_000, 2_100_000)):
        assert one.log_ratio == pytest.approx(math.log(1.05))


def test_a_drift_of_the_machine_is_in_no_round():
    for one in rounds_of(World(2_000_000, 2_000_000, drift=0.2)):
        assert one.log_ratio == pytest.approx(0, abs=1e-4)


def test_the_luck_of_memory_is_drawn_anew_for_each_round():
    world = World(2_000_000, 2_000_000, luck=0.05)
    rounds = rounds_of(world, seconds=60.0)
    assert len(rounds) == MAX_ROUNDS
    assert world.log.count("B") == world.log.count("N") == len(rounds)
    signs = [one.log_ratio > 0 for one in rounds]
    assert 0.25 < sum(signs) / len(signs) < 0.75
    assert all(abs(one.log_ratio) == pytest.approx(math.log(1.05), rel=1e-3) for one in rounds)


def test_who_embraces_whom_is_drawn_by_lot():
    world = World(10_000_000, 10_000_000)
    rounds_of(world, seconds=5.0)
    # a turn is one run that is not timed and one that is
    turns = {part[12:].replace("bb", "b").replace("nn", "n") for part in re.split("BN|NB", world.log)[1:]}
    assert all(set(one) == {"b", "n"} for one in turns)
    assert len(turns) > 1


def test_a_launch_ends_once_it_is_sure():
    world = World(2_000_000, 2_000_000)
    rounds = fight(
        world.loader("b"), world.loader("n"), 60.0, random.Random(0), world.clock, sure=lambda found: len(found) == 5
    )
    assert len(rounds) == 5


def test_short_runs_are_repeated_within_a_turn_and_long_ones_have_fewer_rounds():
    short, middle, long = World(1_000_000, 1_000_000), World(10_000_000, 10_000_000), World(50_000_000, 50_000_000)
    counts = [len(rounds_of(world, seconds=0.0)[0].base_s) for world in (short, middle, long)]
    assert counts == [2 * BLOCKS, 2 * BLOCKS, 2]
    assert short.log.count("b") == 6 + 2 * BLOCKS * 4
    assert middle.log.count("b") == 6 + 2 * BLOCKS * 2


def child(tmp_path: Path, text: str):
    """Returns what asks a process that does this and nothing else."""
    script = tmp_path / "child.py"
    script.write_text(text)
    return partial(run_isolated, command=(sys.executable, str(script)))


ANSWER = """
import json, random, sys
request = json.loads(sys.stdin.readline())["request"]
rng = random.Random(request["seed"])
rounds = []
for _ in range({rounds}):
    base = [0.002 * rng.uniform(0.97, 1.03) for _ in range(4)]
    rounds.append({{"base_s": base, "new_s": [{ratio} * 0.002 * rng.uniform(0.97, 1.03) for _ in range(4)]}})
print("an engine says hello")
print(json.dumps({{"result": rounds}}))
"""


def test_it_stops_as_soon_as_it_is_sure(tmp_path):
    slow = duel(TINY, TINY, seed=0, run_job=child(tmp_path, ANSWER.format(rounds=20, ratio=1.1)))
    assert slow.slower
    assert not slow.cleared
    assert len(slow.launches) <= 2
    assert slow.ratio.low > 1.025
    equal = duel(TINY, TINY, seed=0, run_job=child(tmp_path, ANSWER.format(rounds=20, ratio=1.0)))
    assert equal.cleared
    assert not equal.slower
    assert equal.ratio.low < 1 < equal.ratio.high
    assert equal.detectable is not None


def test_at_the_limit_it_stops_when_the_time_is_up(tmp_path):
    ticks = iter(range(0, 10**12, 10**9))
    process = child(tmp_path, ANSWER.format(rounds=9, ratio=1.025))
    undecided = duel(TINY, TINY, rules=Rules(seconds=5.0), seed=1, run_job=process, clock=lambda: next(ticks))
    assert len(undecided.launches) == 5
    assert not undecided.slower
    assert not undecided.cleared


def test_every_launch_has_lots_of_its_own(tmp_path):
    process = child(tmp_path, ANSWER.format(rounds=20, ratio=1.0))
    one, other = (duel(TINY, TINY, seed=seed, run_job=process).launches for seed in (3, 3))
    assert one == other
    assert len(set(one)) == len(one)
    assert duel(TINY, TINY, seed=4, run_job=process).launches != one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise SystemExit('out of luck')", "out of luck"),
        ("pass", "no message"),
        ("import time; time.sleep(60)", "no sign for 1 s"),
        ("print('{\"result\": [{}]}')", "base_s"),
        ('print(\'{"result": [{"base_s": [0.1, 0.1], "new_s": [0.1, -0.1]}]}\')', "impossible time"),
    ],
)
def test_a_process_that_fails_ends_in_one_error(tmp_path, text, said):
    with pytest.raises(PocketVitError, match=said):
        duel(TINY, TINY, run_job=child(tmp_path, text), silence_s=1.0)


def test_the_file_that_crashes_is_named(tmp_path):
    new = tmp_path / "new.tflite"
    text = """
import json, os, signal, sys
from runtime.worker.child import shared_turn
shared_turn(json.loads(sys.stdin.readline())["turns"])(1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with pytest.raises(MeasurementError, match=r"new\.tflite failed while it was timed.*SIGKILL"):
        duel(TINY, new, run_job=child(tmp_path, text))


def test_a_file_that_cannot_be_loaded_is_named(tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"TFL3" * 10)
    with pytest.raises(MeasurementError, match=r"broken\.tflite failed.*cannot load"):
        duel(TINY, broken)


def test_real_files_are_timed():
    found = duel(TINY, TINY, rules=Rules(max_slowdown=1.0), seed=0)
    assert found.cleared
    assert found.base_s > 0
    assert found.new_s > 0
    assert len(found.differences) >= 7


@pytest.mark.parametrize("turns", [((), ()), ((0.1,), (0.1,)), ((0.1, 0.1), (0.1,)), ((0.1, 0.0), (0.1, 0.1))])
def test_impossible_rounds_are_refused(turns):
    with pytest.raises(MeasurementError, match="A round has"):
        DuelRound(*turns)


@pytest.mark.parametrize(
    "change",
    [{"max_slowdown": -0.1}, {"max_slowdown": math.nan}, {"alpha": 0.0}, {"alpha": 0.9}, {"seconds": -1.0}],
)
def test_impossible_rules_are_refused(change):
    with pytest.raises(MeasurementError, match=next(iter(change))):
        replace(Rules(), **change)


def test_a_duel_survives_json():
    from runtime import decode, encode

    one = DuelRound((0.1, 0.2), (0.1, 0.3))
    found = Duel(Rules(), 1, 0, ((one,) * 30,), 1.0)
    assert decode(Duel, json.loads(json.dumps(encode(found))), "duel") == found
