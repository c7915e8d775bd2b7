"""The process in which files nobody vouches for are opened. Started by ``sandbox``; loads no torch."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime import ArtifactError, MissingExtraError, PocketVitError, decode, encode

from .teller import Teller

_MEMORY_BYTES = 4 * 2**30
_TORCH_BYTES = 12 * 2**30
"""More of it for torch, whose libraries alone take most of 4 GiB."""
_MEMORY_PER_BYTE = 8
"""Address space a job may take, beside so many bytes for each byte of its file."""


def main() -> int:
    """Does jobs read from stdin, a JSON line each, until it is closed."""
    # engines greet on stdout, which is for answers alone
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _limit("RLIMIT_CORE", 0)
    teller = Teller(stream)
    for line in sys.stdin:
        request = json.loads(line)
        teller.begin(request.pop("id"), request.pop("silence_s"))
        job, path = request.pop("job"), Path(request.pop("path"))
        try:
            base = _TORCH_BYTES if path.suffix == ".pt2" else _MEMORY_BYTES
            _limit("RLIMIT_AS", base + _MEMORY_PER_BYTE * path.stat().st_size)
            result = encode(_JOBS[job](path, teller, **request))
        except MissingExtraError as error:
            teller.tell(missing=[error.package, error.extra])
        except PocketVitError as error:
            text = str(error) if path.name in str(error) else f"{path}: {error}"
            teller.tell(error=type(error).__name__, text=text)
        except MemoryError:
            refusal = ArtifactError(f"{path} asks for more memory than a model of its size needs")
            teller.tell(error="ArtifactError", text=str(refusal))
        except Exception as failure:  # parsers fail on damaged files in every way there is
            refusal = ArtifactError(
                f"{path} is damaged or no model this can read",
                got=f"{type(failure).__qualname__}: {str(failure)[:300]}".removeprefix("error: "),
                fix="Copy it or export it again",
            )
            teller.tell(error="ArtifactError", text=str(refusal))
        else:
            teller.tell(result=result)
    return 0


def _limit(name: str, value: int) -> None:
    """Lowers a limit of this process where the system has it."""
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _contents(path: Path, teller: Teller) -> Any:
    from export.graph.file_model import read_model

    from .contents import summarise

    return summarise(read_model(path), path.stat().st_size)


def _partitions(path: Path, teller: Teller) -> Any:
    from .partitions import find_partitions

    teller.doing("LiteRT", "loading")
    return find_partitions(path)


def _times(path: Path, teller: Teller, threads: int, budget_s: float) -> Any:
    from . import op_times

    if path.suffix == ".onnx":
        teller.doing("ONNX Runtime", "running")
        return op_times.onnx_times(path, threads, budget_s, teller.progress)
    teller.doing("LiteRT", "running")
    return op_times.tflite_times(path, threads, budget_s, teller.progress)


def _widths(path: Path, teller: Teller, plan: Any) -> Any:
    from runtime import ShapePlan

    from .widths import read_widths

    return read_widths(path, decode(ShapePlan, plan, "the plan"))


def _run(path: Path, teller: Teller, images: int) -> Any:
    from .running import run_seeded

    return run_seeded(path, images, teller)


def _tensorflow(path: Path, teller: Teller, images: int) -> Any:
    from .running import run_in_tensorflow

    return run_in_tensorflow(path, images, teller)


_JOBS: dict[str, Callable[..., Any]] = {
    "contents": _contents,
    "partitions": _partitions,
    "times": _times,
    "widths": _widths,
    "run": _run,
    "tensorflow": _tensorflow,
}


if __name__ == "__main__":
    sys.exit(main())
