"""Keeps the smaller model of a default run, its weights in float16, whose files the tests compare on every engine.

make export-tflite
python tests/golden/make_default_run.py runs/digits-vit
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors.torch import save_file

from compress.model.folder import read_model

HERE = Path(__file__).resolve().parent / "default-run"


def main(run: Path) -> None:
    """Writes ``model.safetensors``, ``plan.json`` and ``task.json``."""
    HERE.mkdir(exist_ok=True)
    weights = read_model(run / "sliced").state_dict()
    save_file({name: value.half().contiguous() for name, value in weights.items()}, HERE / "model.safetensors")
    for name in ("plan.json", "task.json"):
        shutil.copy(run / "sliced" / name, HERE / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
