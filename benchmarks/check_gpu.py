"""Everything that is to be seen on a real GPU, in at most eight minutes, with what is installed.

    make check-gpu
    python benchmarks/check_gpu.py [--out runs/check-gpu.json] [--parts torch,energy] [--minutes 8]

It installs and downloads nothing. Each part runs in a process of its own. A part whose GPU, package or driver is
missing counts as not run, with the reason. The results are one JSON file, written again as each part goes on, so that a
run that is cut off leaves what came before.

NOT RUN ON A GPU YET: every part was written without one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "machine": 30,
    "litert-gpu": 90,
    "training": 70,
    "tensor-cores": 60,
    "torch": 70,
    "onnxruntime": 70,
    "tensorrt": 120,
    "energy": 50,
    "nccl": 50,
}
"""The most seconds of each part, in the order in which they run."""

CHILD = ("-m", "benchmarks.gpu_parts")
"""What Python runs for a part, with its name, a file for what it finds, and its seconds."""

_LEAST_S = 5.0


def main() -> None:
    """Runs the parts, prints a line for each, and ends with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/check-gpu.json"), help="file of the results")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts")
    options = parser.parse_args()
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise SystemExit(f"Error: no such part. Expected {', '.join(PARTS)}. Got {', '.join(unknown)}")
    document = run_parts(names, 60 * options.minutes, options.out)
    print(f"Results in {options.out}")
    raise SystemExit(1 if any(part["state"] in ("failed", "cut") for part in document["parts"]) else 0)


def run_parts(names: list[str], budget_s: float, out: Path) -> dict[str, Any]:
    """Runs parts one after another and returns the results, which ``out`` holds too.

    Args:
        names: of ``PARTS``.
        budget_s: for all of them, s.
        out: file of the results.
    """
    start = time.monotonic()
    document: dict[str, Any] = {
        "schema": "pocketvit.check-gpu",
        "schema_version": 1,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "parts": [],
    }
    for name in names:
        left = budget_s - (time.monotonic() - start)
        part: dict[str, Any] = {"name": name, "state": "running", "seconds": 0.0, "reason": None, "result": None}
        document["parts"].append(part)
        _write(out, document)
        if left < _LEAST_S:
            part |= {"state": "not run", "reason": "no time was left"}
        else:
            part |= _run(name, min(left, PARTS[name]), lambda found, part=part: _keep(out, document, part, found))
        _write(out, document)
        print(f"{name:13} {part['state']:8} {part['seconds']:6.1f} s  {part['reason'] or ''}".rstrip(), flush=True)
    return document


def _run(name: str, limit_s: float, keep: Any) -> dict[str, Any]:
    """Runs one part in a process of its own and returns its state, seconds, reason and result."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        found, said = Path(scratch) / "found.json", Path(scratch) / "said.txt"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, *CHILD, name, str(found), str(limit_s)]
        with said.open("wb") as stream:
            child = subprocess.Popen(
                command, stdout=stream, stderr=stream, cwd=ROOT, env=environment, start_new_session=True
            )
            answer: dict[str, Any] = {}
            while child.poll() is None and time.monotonic() - start < limit_s:
                time.sleep(0.2)
                if (newer := _read(found)) != answer:
                    answer = newer
                    keep(answer)
            cut = child.poll() is None
            if cut:
                os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()
        answer = _read(found)
        state, reason = answer.get("state", "running"), answer.get("reason")
        if state == "running":
            last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            why = f"it ended with {code}: {' '.join(last)[-300:]}"
            state, reason = ("cut", f"it took longer than {limit_s:.0f} s") if cut else ("failed", why)
    seconds = round(time.monotonic() - start, 1)
    return {"state": state, "seconds": seconds, "reason": reason, "result": answer.get("result")}


def _keep(out: Path, document: dict[str, Any], part: dict[str, Any], found: dict[str, Any]) -> None:
    part["result"] = found.get("result")
    _write(out, document)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    main()
