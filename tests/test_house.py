"""The house stays tidy: no long files, no crowded folders, no name with two meanings, one table of suffixes."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("runtime", "compress", "export", "device_bench", "pocketvit")
MOST_LINES = 420
MOST_FILES = 17
COMMANDS = "pocketvit/cli"
"""One module for each command, however many there are; its function has the name of the command."""

SHARED = {"main", "run", "choose", "load"}
"""Entry points of programs and of search methods, which are looked up by their place; and ``load``, which in PocketViT
does what that of the runtime does and also takes folders."""


def sources() -> list[Path]:
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(found) > 300
    return found


def test_no_file_is_too_long_to_read() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_folder_is_crowded() -> None:
    counts: dict[str, int] = defaultdict(int)
    for path in sources():
        counts[str(path.parent.relative_to(ROOT))] += path.name != "__init__.py"
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES and folder != COMMANDS} == {}


def test_no_public_name_means_two_things() -> None:
    places = defaultdict(set)
    for path in sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            if node.name not in SHARED and not path.is_relative_to(ROOT / COMMANDS):
                places[node.name].add(str(path.relative_to(ROOT)))
    assert {name: sorted(found) for name, found in places.items() if len(found) > 1} == {}


def test_the_suffixes_of_model_files_stand_in_one_table() -> None:
    quoted = re.compile(r"[\"']\.(?:onnx|tflite|pt2)[\"']")
    found = {str(path.relative_to(ROOT)) for path in sources() if quoted.search(path.read_text(encoding="utf-8"))}
    assert found == {"runtime/formats.py"}
