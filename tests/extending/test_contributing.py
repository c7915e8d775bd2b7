"""The examples of CONTRIBUTING.md: each is a whole file that registers itself."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from runtime.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^### (.+?)$.*?^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
TABLE = re.search(r"\| to add .*?\n\n", TEXT, re.DOTALL)
ADDRESSES = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+\.[A-Z]+)`", TABLE[0] if TABLE else "")


def registry(address: str) -> Registry[object]:
    module, _, name = address.rpartition(".")
    found: Registry[object] = getattr(import_module(module), name)
    return found


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what an example registers when its test ends."""
    for address in ADDRESSES:
        own = registry(address)
        monkeypatch.setattr(own, "_things", dict(own._things))


def test_every_registry_of_the_table_has_an_example() -> None:
    assert len(ADDRESSES) == 12
    for address in ADDRESSES:
        assert registry(address), address
        assert address.rpartition(".")[2] in TEXT.split("### A search method")[1], address


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_an_example_registers_itself(title: str, code: str) -> None:
    before = {address: set(registry(address)) for address in ADDRESSES}
    exec(compile(code, f"CONTRIBUTING.md, {title}", "exec"), {"__name__": "example"})
    added = {address: set(registry(address)) - names for address, names in before.items()}
    assert sum(map(len, added.values())) == 1, added


def test_no_example_imports_torch_in_a_process_that_measures() -> None:
    lines = [*(code for _, code in EXAMPLES), "import sys", "print('torch' in sys.modules)"]
    words = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr
