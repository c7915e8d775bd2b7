"""How often the gate raises a false alarm, and how often it finds a slowdown: many gates of one file against itself.

    python benchmarks/gate_power.py [--models 2ms,15ms] [--slowdowns 0,0.05] [--gates N] [--out FOLDER] [--report]

The new file is the base file, run as it is (A/A) or with a wait after each run that makes it slower by an exact share
of its own time. Every second gate runs beside a process that keeps a core busy. A gate that was made is kept, so that
the benchmark goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from compress.model.load import ModelSpec, load_model
from device_bench import format
from device_bench.gate.duel import Duel, duel
from device_bench.worker.isolated import run_isolated
from export.formats.tflite import timing_bytes
from runtime import encode, write_bytes

SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)
MODELS = {"2ms": SPEC, "15ms": replace(SPEC, img_size=192, patch_size=16, in_chans=3)}
CASES = {"2ms": {0.0: 200, 0.03: 50, 0.05: 50, 0.10: 50}, "15ms": {0.0: 20, 0.05: 20, 0.10: 20}}
"""Gates for each slowdown."""


def main() -> None:
    """Makes the gates that are missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="2ms,15ms", help="comma-separated")
    parser.add_argument("--gates", type=int, help="of each case, instead of those of the table")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/gate-power"))
    parser.add_argument("--slowdowns", default="0,0.03,0.05,0.1", help="of these alone, comma-separated")
    parser.add_argument("--report", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    names = options.models.split(",")
    if not options.report:
        slowdowns = [float(text) for text in options.slowdowns.split(",")]
        for name in names:
            make_gates(name, options.out, options.gates, slowdowns)
    print(table(names, options.out))


def make_gates(name: str, folder: Path, gates: int | None, slowdowns: list[float]) -> None:
    """Makes the gates of one model that are missing, the cases mixed by lot."""
    file, log = folder / f"{name}.tflite", folder / f"{name}.jsonl"
    if not file.is_file():
        write_bytes(file, timing_bytes(load_model(MODELS[name], 10, 0).plan, "fp32"))
    cases = {slowdown: count for slowdown, count in CASES[name].items() if slowdown in slowdowns}
    wanted = [(slowdown, i) for slowdown, count in cases.items() for i in range(gates or count)]
    random.Random(0).shuffle(wanted)
    done = {(row["slowdown"], row["number"]) for row in read(log)}
    left = [case for case in wanted if case not in done]
    for made, (slowdown, number) in enumerate(left):
        with a_core_busy(number % 2 == 1):
            command = (sys.executable, str(Path(__file__).with_name("gate_power_child.py")), str(slowdown))
            found = duel(file, file, run_job=partial(run_isolated, command=command))
        with log.open("a") as handle:
            handle.write(json.dumps(row_of(found, slowdown, number)) + "\n")
        print(
            f"{name}: {made + 1}/{len(left)} +{100 * slowdown:g} % {found.slower} {found.spent_s:.1f} s",
            file=sys.stderr,
        )


def row_of(found: Duel, slowdown: float, number: int) -> dict[str, object]:
    """Returns what is kept of a gate, its differences included."""
    return {
        "slowdown": slowdown,
        "number": number,
        "busy": number % 2 == 1,
        "slower": found.slower,
        "cleared": found.cleared,
        "spent_s": found.spent_s,
        "launches": len(found.launches),
        "base_s": found.base_s,
        "ratio": found.ratio.value,
        "detectable": found.detectable,
        "differences": [round(value, 6) for value in found.differences],
        "rules": encode(found.rules),
    }


@contextmanager
def a_core_busy(wanted: bool) -> Iterator[None]:
    """Keeps one core busy meanwhile, where that is wanted."""
    if not wanted:
        yield
        return
    # it ends by itself where this process is killed
    busy = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as other:
        try:
            yield
        finally:
            other.kill()


def read(log: Path) -> list[dict[str, object]]:
    """Returns the gates that were made."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def table(names: list[str], folder: Path) -> str:
    """Returns what came of all gates, as a Markdown table."""
    lines = [
        "| model | slower by | a core busy | gates | called slower | median time | longest | median rounds |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        rows = read(folder / f"{name}.jsonl")
        for slowdown in sorted({row["slowdown"] for row in rows}):  # type: ignore[type-var]
            for busy in (False, True, None):
                some = [r for r in rows if r["slowdown"] == slowdown and busy in (None, r["busy"])]
                if some:
                    lines.append(line(name, slowdown, busy, some))
    return "\n".join(lines)


def line(name: str, slowdown: object, busy: bool | None, rows: list[dict[str, object]]) -> str:
    """Returns one line of the table."""
    alarms = sum(bool(row["slower"]) for row in rows)
    seconds = [float(str(row["spent_s"])) for row in rows]
    rounds = [len(row["differences"]) for row in rows]  # type: ignore[arg-type]
    took = format.seconds(median(float(str(row["base_s"])) for row in rows))
    cells = [
        f"{name} ({took})",
        "none (A/A)" if slowdown == 0 else f"{100 * float(str(slowdown)):g} %",
        {False: "no", True: "yes", None: "**both**"}[busy],
        len(rows),
        f"{alarms} ({100 * alarms / len(rows):.1f} %)",
        f"{median(seconds):.1f} s",
        f"{max(seconds):.1f} s",
        round(median(rounds)),
    ]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
