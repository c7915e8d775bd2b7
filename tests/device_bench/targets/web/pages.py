"""Made-up pages that send what real ones send, and a bench for them."""

from __future__ import annotations

import base64
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.targets.web.gather import Gathering
from device_bench.targets.web.messages import read_message
from device_bench.targets.web.offer import OfferedFile, offer_files
from runtime import dumps

WHOLE = Path(__file__).resolve().parents[3] / "golden" / "run-folders" / "whole"
FLOAT, INTEGER, ONNX = (WHOLE / "artifacts" / f"whole.{kind}" for kind in ("fp32.tflite", "int8.tflite", "onnx"))
IMAGES = WHOLE / "bench" / "test-images.npz"
SAMPLING = Sampling(min_samples=4, max_samples=12, seconds=0.0, max_warmup=6)
PHONE = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Mobile "
    "Safari/537.36"
)


def web_request(*files: Path, **more: Any) -> BenchRequest:
    """Returns a request for files of the golden run, with few times."""
    return BenchRequest(files or (FLOAT, ONNX), **{"sampling": SAMPLING, "timeout_s": 60.0, **more})


@cache
def offered() -> tuple[OfferedFile, ...]:
    """Returns two files, which answer eight random pictures."""
    return offer_files(web_request())[0]


def facts(**changes: Any) -> dict[str, Any]:
    """Returns what a phone's browser tells, as JSON."""
    body: dict[str, Any] = {
        "user_agent": PHONE,
        "name": "",
        "model": "Pixel 8",
        "platform": "Android",
        "cores": 9,
        "memory_gib": 8,
        "secure": True,
        "isolated": True,
        "relaxed_simd": True,
        "gpu": None,
    }
    return body | changes


class FakePage:
    """Sends the messages of one page to a gathering.

    Args:
        gathering: takes them.
        number: gives the page its number.
        backends: what computes there.
        known: further facts.
    """

    def __init__(self, gathering: Gathering, number: int = 1, backends: tuple[str, ...] = ("wasm",), **known: Any):
        self.gathering, self.visit, self.backends = gathering, f"{number:032x}", backends
        self.attempts, self.facts = 0, facts(**known)

    def send(self, kind: str, **body: Any) -> dict[str, Any]:
        """Sends a message through JSON, and returns the answer."""
        message = {"visit": self.visit, **body}
        return self.gathering.take(read_message(kind, dumps(message).encode()))

    def hello(self) -> dict[str, Any]:
        return self.send("hello", backends=self.backends, facts=self.facts)

    def begin(self, file: int, backend: str = "wasm") -> dict[str, Any]:
        """Begins a file, and returns the key of the messages for it."""
        self.attempts += 1
        key = {"file": file, "backend": backend, "attempt": f"{int(self.visit, 16) * 1000 + self.attempts:032x}"}
        self.send("begin", **key)
        return key

    def times(self, key: dict[str, Any], sequence: int, *values: float, warmup: bool = False) -> dict[str, Any]:
        return self.send("times", **key, sequence=sequence, warmup=warmup, values=list(values))

    def outputs(self, key: dict[str, Any], shift: int = 0) -> dict[str, Any]:
        """Sends the right outputs, or some that are shifted by classes."""
        answers = np.roll(self.gathering.files[key["file"]].answers, shift, axis=1)
        return self.send(
            "outputs", **key, first=0, outputs=[base64.b64encode(row.tobytes()).decode() for row in answers]
        )

    def done(self, key: dict[str, Any], batches: int, **changes: Any) -> dict[str, Any]:
        found = {
            "steady": True,
            "load_s": 0.1,
            "first_run_s": 0.02,
            "threads": 1,
            "runs_per_value": 1,
            "resolution_s": 5e-6,
            "hidden": False,
            "whole": None,
        }
        return self.send("done", **key, batches=batches, **(found | changes))

    def measure(self, file: int, *values: float, backend: str = "wasm", shift: int = 0) -> dict[str, Any]:
        """Does all of one file."""
        key = self.begin(file, backend)
        self.outputs(key, shift)
        self.times(key, 0, 0.5, warmup=True)
        self.times(key, 1, *values)
        return self.done(key, 2)


def wrong_copy(file: OfferedFile) -> OfferedFile:
    """Returns a file whose outputs here are other ones, so that every browser is wrong."""
    return replace(file, answers=np.roll(file.answers, 1, axis=1))
