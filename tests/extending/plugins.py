"""Runs the command line with a plug-in from a folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from runtime.registry import PLUGINS
from tests.pocketvit import preloaded
from tests.pocketvit.conftest import environment


def run(folder: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process that finds ``module`` in ``folder`` and is told to import it."""
    own = environment()
    own |= {"PYTHONPATH": os.pathsep.join((own["PYTHONPATH"], str(folder))), PLUGINS: module}
    return preloaded.run(*arguments, env=own, cwd=folder, timeout=300)
