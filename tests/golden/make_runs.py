"""Writes the golden run folders: one of every kind of search, and one that was distilled.

    python tests/golden/make_runs.py FOLDER

They are frozen: every later version must report, continue and export them. Make them anew only to add a schema, and
never to make a test pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MODEL = (
    "--model vit_tiny_patch16_224 --img-size 32 --patch-size 16 --model-arg embed_dim=32 --model-arg depth=2 "
    "--model-arg num_heads=2 --train-limit 200 --threads 1 --epochs 1"
)
SHORT = f"{MODEL} --recovery-epochs 1 --importance-images 2"
SEARCHES = {
    "latency": "--search milp --budget latency=0.9@cpu",
    "tree": "--search dfbnb --depth 2 --iterations 9 --round-epochs 0 --budget macs=0.9",
    "tas": "--search tas --search-epochs 1 --budget macs=0.7",
    "zeros": "--search unstructured --sparsity 0.5",
}
"""Runs that end with the smaller model; ``whole`` goes on to files, measurements and the report."""

FILES = (
    "--formats onnx,onnx-int8,fp32,int8,int8-full,torch,tflite-micro --calibration-images 4 --verify-images 20 "
    "--min-agreement 0 --for pi5 --bench-seconds 0.05 --micro-ram 1000"
)
"""No file fits into so little memory, so that one of them is refused."""


def main(folder: Path) -> None:
    """Writes the runs into ``folder``, without what can be made from the rest. Their paths are relative to it."""
    folder.mkdir(parents=True)
    # the digits in another order than they are built in
    (folder / "classes.txt").write_text("".join(f"{digit}\n" for digit in reversed(range(10))), encoding="utf-8")
    for name, options in SEARCHES.items():
        run(folder, f"compress {SHORT} {options} --name {name}")
    run(folder, f"run {SHORT} --class-map classes.txt {FILES} --name whole")
    run(folder, f"distill {MODEL} --class-map classes.txt --teacher whole --method response,feature --name distilled")
    shutil.rmtree(folder / "profiles")
    for path in [*folder.glob("*/report*"), *folder.glob("*/.lock")]:
        path.unlink()


def run(folder: Path, line: str) -> None:
    """Runs a command of PocketViT's in ``folder``; a refused file (exit code 1) is part of a golden run."""
    argv = [sys.executable, "-m", "pocketvit", *line.split(), "--runs", "."]
    checkout = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(argv, cwd=folder, env={**os.environ, "PYTHONPATH": checkout}, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pocketvit {line} ended with {done.returncode}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
