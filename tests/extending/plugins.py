"""Runs the command line with a plug-in from a folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from runtime.registry import PLUGINS
from tests.pocketvit.conftest import command, environment


def run(folder: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process that finds ``module`` in ``folder`` and is told to import it."""
    own = environment()
    own |= {"PYTHONPATH": os.pathsep.join((own["PYTHONPATH"], str(folder))), PLUGINS: module}
    words = command(*arguments)
    return subprocess.run(words, env=own, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
