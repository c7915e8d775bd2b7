"""The process that ``gate_power.py`` launches: the gate's own, with a wait after each run of the new file."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from device_bench.gate.duel import Rules, fight, sure
from runtime import decode, encode, open_engine


def main(slowdown: float) -> None:
    """Does what the gate's own process does, with a wait after each run of the new file."""
    request = json.loads(sys.stdin.readline())["request"]
    rng = np.random.default_rng(0)

    def loader(name: str, share: float) -> Callable[[], Callable[[], None]]:
        def load() -> Callable[[], None]:
            engine = open_engine(Path(request[name]), threads=request["threads"])
            image = rng.standard_normal(engine.input_shape).astype(engine.input_dtype)

            def run() -> None:
                started = time.perf_counter_ns()
                engine.run(image)
                now = time.perf_counter_ns()
                until = now + share * (now - started)
                while share and time.perf_counter_ns() < until:
                    pass

            return run

        return load

    lots = random.Random(request["seed"])
    rules, before = decode(Rules, request["rules"], "the request"), request["before"]
    rounds = fight(
        loader("base", 0.0),
        loader("new", slowdown),
        request["seconds"],
        lots,
        sure=lambda own: sure([*before, *own], rules),
    )
    print(json.dumps({"result": encode(rounds)}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
