"""What pages may send, checked field by field before any of it is used."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from runtime import MeasurementError, PocketVitError, decode

from .facts import BrowserFacts

T = TypeVar("T")

WebBackend = Literal["wasm", "webgpu"]
"""What computes in a browser: WebAssembly on the CPU, or WebGPU."""

BATCH_VALUES = 256
"""Times in one message, at most."""

MOST_BATCHES = 20_000
_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST_S = 3600.0


@dataclass(frozen=True)
class PageHello:
    """A page was opened, or opened again.

    Attributes:
        visit: a number that the page drew, 32 hexadecimal digits; it keeps it when it is loaded again.
        backends: what can compute there.
        facts: what the browser tells of itself.
    """

    visit: str
    backends: tuple[WebBackend, ...]
    facts: BrowserFacts

    def __post_init__(self) -> None:
        _check_ids(self.visit)
        if not self.backends or len(set(self.backends)) != len(self.backends):
            raise MeasurementError("A page names what can compute there", got=self.backends)


@dataclass(frozen=True)
class PagePart:
    """A page begins a file on a backend; what an earlier attempt sent of it is dropped.

    Attributes:
        visit: the page's number.
        file: index of the file.
        backend: what computes.
        attempt: a number that the page drew for this attempt, 32 hexadecimal digits.
    """

    visit: str
    file: int
    backend: WebBackend
    attempt: str

    def __post_init__(self) -> None:
        _check_ids(self.visit, self.attempt)


@dataclass(frozen=True)
class PageTimes(PagePart):
    """Times of runs, in the order they were taken.

    Attributes:
        sequence: number of this message, 0 for the first of the attempt.
        warmup: whether they are of the warm-up.
        values: the times, s.
    """

    sequence: int
    warmup: bool
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("sequence", self.sequence, 0, MOST_BATCHES)
        _check_count("The number of times", len(self.values), 1, BATCH_VALUES)
        for value in self.values:
            if not 0 < value <= _LONGEST_S:
                raise MeasurementError("A time is impossible", expected=f"above 0 to {_LONGEST_S:g} s", got=value)


@dataclass(frozen=True)
class PageOutputs(PagePart):
    """Outputs for pictures.

    Attributes:
        first: index of the first picture.
        outputs: the raw output for each, in base64.
    """

    first: int
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("first", self.first, 0, 10**7)
        _check_count("The number of outputs", len(self.outputs), 1, 256)

    def raw(self) -> tuple[bytes, ...]:
        """Returns the raw outputs.

        Raises:
            MeasurementError: one is no base64.
        """
        try:
            return tuple(base64.b64decode(output, validate=True) for output in self.outputs)
        except (binascii.Error, ValueError) as error:
            raise MeasurementError("An output is no base64", got=error) from error


@dataclass(frozen=True)
class PageDone(PagePart):
    """A file is done on a backend.

    Attributes:
        batches: messages with times that were sent.
        steady: whether the warm-up ended because the times had settled.
        load_s: time to load the file into the engine, s.
        first_run_s: time of the first inference, s.
        threads: threads that computed.
        runs_per_value: inferences in each time, which is their mean.
        resolution_s: step of the browser's clock, s.
        hidden: whether the page was in the background meanwhile.
        whole: whether the backend ran every operator; null where the engine does not tell.
    """

    batches: int
    steady: bool
    load_s: float
    first_run_s: float
    threads: int
    runs_per_value: int
    resolution_s: float
    hidden: bool
    whole: bool | None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("batches", self.batches, 0, MOST_BATCHES)
        _check_count("threads", self.threads, 1, 4096)
        _check_count("runs_per_value", self.runs_per_value, 1, 10**6)
        for name in ("load_s", "first_run_s", "resolution_s"):
            if not 0 < getattr(self, name) <= _LONGEST_S:
                raise MeasurementError(f"{name} is impossible", got=getattr(self, name))


@dataclass(frozen=True)
class PageFailure(PagePart):
    """A file cannot be measured on a backend.

    Attributes:
        what: the browser's reason.
    """

    what: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("The length of a reason", len(self.what), 1, 2000)


@dataclass(frozen=True)
class PageSign:
    """A page lives.

    Attributes:
        visit: the page's number.
        stage: what it does.
        done: how much of it is done.
        total: how much there is.
        finished: whether it has nothing left to do.
    """

    visit: str
    stage: str = ""
    done: int = 0
    total: int = 0
    finished: bool = False

    def __post_init__(self) -> None:
        _check_ids(self.visit)
        _check_count("The length of a stage", len(self.stage), 0, 200)
        _check_count("total", self.total, 0, 2**31)
        _check_count("done", self.done, 0, self.total)


MESSAGES: dict[str, type[Any]] = {
    "hello": PageHello,
    "begin": PagePart,
    "times": PageTimes,
    "outputs": PageOutputs,
    "done": PageDone,
    "failed": PageFailure,
    "sign": PageSign,
}
"""The type of the message for each place that takes one."""


def read_message(kind: str, body: bytes) -> Any:
    """Returns the message in the body of a request.

    Args:
        kind: one of ``MESSAGES``.
        body: JSON in UTF-8.

    Raises:
        MeasurementError: it is not such a message.
    """
    try:
        return decode(MESSAGES[kind], json.loads(body, parse_constant=_refuse), f"the message {kind}")
    except (ValueError, RecursionError, PocketVitError) as error:
        raise MeasurementError(f"The message {kind} is not one", got=str(error)[:300]) from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _check_ids(*ids: str) -> None:
    for own in ids:
        if not _ID.fullmatch(own):
            raise MeasurementError("A number of a page is not one", expected="32 hexadecimal digits", got=own[:40])


def _check_count(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise MeasurementError(f"{name} is out of range", expected=f"{least} to {most}", got=value)
