"""The program that ``--bootstrap`` runs on a device: it makes a virtual environment of the wheels that came with it.

It needs only the standard library, uses neither pip nor the network, and changes nothing outside its folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any


def main() -> int:
    """Makes the environment and reports the modules it imports; a failure leaves an older one unchanged."""
    request = json.load(sys.stdin)
    answer: dict[str, Any]
    target = Path(request["venv"]).expanduser()
    made = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        answer = {"result": make(made, target, [Path(wheel) for wheel in request["wheels"]], request["modules"])}
    except (OSError, ValueError, ImportError, zipfile.BadZipFile, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        answer = {"error": "MeasurementError", "text": f"The device's Python could not be set up. Got {said[:300]}."}
    finally:
        # before the answer, since this process is killed once it has answered
        shutil.rmtree(made, ignore_errors=True)
    write_line(answer)
    return 0


def make(made: Path, target: Path, wheels: list[Path], modules: list[str]) -> list[str]:
    """Makes a virtual environment in ``made``, tries it, and puts it in the place of ``target``.

    Args:
        made: a folder that does not exist.
        target: final folder, which is replaced.
        wheels: wheels to unpack.
        modules: modules that must be importable in it.

    Returns:
        ``modules``.
    """
    import venv

    write_line({"progress": ["set up", 0, len(wheels), ""]})
    venv.EnvBuilder(symlinks=True, with_pip=False).create(made)
    site = made / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for done, wheel in enumerate(wheels, 1):
        unpack(wheel, site)
        write_line({"progress": ["set up", done, len(wheels), wheel.name]})
    check = [str(made / "bin" / "python"), "-P", "-c", "; ".join(f"import {module}" for module in modules)]
    subprocess.run(check, check=True, capture_output=True, text=True)
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return modules


def unpack(wheel: Path, site: Path) -> None:
    """Unpacks a wheel into ``site``, never outside it, and of its ``.data`` folder only what belongs there."""
    with zipfile.ZipFile(wheel) as packed:
        for entry in packed.infolist():
            parts = entry.filename.split("/")
            if parts[0].endswith(".data"):
                if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            if ".." in parts or entry.filename.startswith("/"):
                raise ValueError(f"{wheel.name} holds {entry.filename}")
            if entry.is_dir():
                continue
            path = site.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(entry) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)


def write_line(answer: dict[str, Any]) -> None:
    """Writes one line of JSON to standard output."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
