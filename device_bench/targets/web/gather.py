"""Collects what browsers send: nothing twice, nothing of another attempt, and nothing with a gap."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from device_bench.documents.measurement import Sampling
from runtime import MeasurementError

from .facts import BrowserFacts
from .judge import AnswerVerdict, judge_answers
from .messages import PageDone, PageFailure, PageHello, PageOutputs, PagePart, PageSign, PageTimes, WebBackend
from .offer import OfferedFile

MOST_DEVICES = 64
"""Pages of one bench, at most."""


class OutOfStepError(Exception):
    """A message is of an attempt that another one has replaced, or of a page that is not known."""


@dataclass
class VisitPart:
    """What came of one file on one backend of one page.

    Attributes:
        attempt: the number of the attempt that counts; empty before the first.
        times: by sequence, whether they are of the warm-up, and the times, s.
        outputs: the raw output by index of the picture.
        done: the last message, once nothing is missing.
        failure: why there is nothing.
        verdict: how its outputs compare with those of this machine's CPU.
    """

    attempt: str = ""
    times: dict[int, tuple[bool, tuple[float, ...]]] = field(default_factory=dict)
    outputs: dict[int, bytes] = field(default_factory=dict)
    done: PageDone | None = None
    failure: str | None = None
    verdict: AnswerVerdict | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected."""
        return self.done is not None or self.failure is not None

    def series(self, warmup: bool) -> tuple[float, ...]:
        """Returns the times of the warm-up, or the others, in order, s."""
        return tuple(value for _, (own, values) in sorted(self.times.items()) if own == warmup for value in values)


@dataclass
class Visit:
    """One page, however often it was loaded.

    Attributes:
        label: name of the device and browser, different from those of the other pages.
        facts: what the browser tells.
        backends: what can compute there.
        parts: by index of the file and backend.
        loads: how often the page was loaded.
        seen: when it last gave a sign, s on the gathering's clock.
        stage: what it last said that it does.
        finished: whether it has nothing left to do.
    """

    label: str
    facts: BrowserFacts
    backends: tuple[WebBackend, ...]
    parts: dict[tuple[int, WebBackend], VisitPart]
    seen: float
    loads: int = 1
    stage: str = ""
    finished: bool = False


class Gathering:
    """What all pages sent; its methods may be called by many threads.

    Args:
        files: the offered files.
        sampling: the times that are asked for; more are refused.
        clock: a monotonic clock, s.
        heard: called with a line when a page comes, and when a part of it ends.
    """

    def __init__(
        self,
        files: Sequence[OfferedFile],
        sampling: Sampling,
        clock: Callable[[], float] = time.monotonic,
        heard: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.files = tuple(files)
        self._sampling, self._clock, self._heard = sampling, clock, heard
        self._lock = threading.Lock()
        self._visits: dict[str, Visit] = {}
        self._started = clock()

    def take(self, message: Any) -> dict[str, Any]:
        """Takes a message of ``messages.MESSAGES`` and returns the answer to the page, as JSON.

        A message that comes again changes nothing and has the same answer.

        Raises:
            OutOfStepError: the page is not known, or another attempt has replaced its own.
            MeasurementError: the message contradicts the bench or an earlier message.
        """
        if isinstance(message, PageHello):
            return self._hello(message)
        with self._lock:
            visit = self._visits.get(message.visit)
            if visit is None:
                raise OutOfStepError("this bench does not know the page")
            visit.seen = self._clock()
            if isinstance(message, PageSign):
                return self._sign(visit, message)
            part = visit.parts.get((message.file, message.backend))
            if part is None:
                raise MeasurementError("No such file and backend", got=f"{message.file} on {message.backend}")
            if type(message) is PagePart:
                return self._begin(part, message)
            if message.attempt != part.attempt:
                raise OutOfStepError("another attempt has replaced this one")
            handlers: dict[type, Callable[[Visit, VisitPart, Any], dict[str, Any]]] = {
                PageTimes: self._times,
                PageOutputs: self._outputs,
                PageDone: self._done,
                PageFailure: self._failed,
            }
            return handlers[type(message)](visit, part, message)

    def visits(self) -> tuple[Visit, ...]:
        """Returns the pages in the order in which they came."""
        with self._lock:
            return tuple(self._visits.values())

    def counts(self, silence_s: float) -> tuple[int, int, float]:
        """Returns how many pages are finished, how many work, and the time since the last sign of any of those, s.

        Args:
            silence_s: a page that gave no sign for so long works no more.
        """
        with self._lock:
            now = self._clock()
            working = [own for own in self._visits.values() if not own.finished]
            alive = [own for own in working if now - own.seen < silence_s]
            last = max([self._started, *(own.seen for own in self._visits.values())])
            return sum(own.finished for own in self._visits.values()), len(alive), now - last

    def progress(self) -> tuple[int, int, str]:
        """Returns how many parts have ended, how many there are, and what each page does."""
        with self._lock:
            parts = [part for own in self._visits.values() for part in own.parts.values()]
            words = [f"{own.label}: {own.stage}" for own in self._visits.values() if own.stage and not own.finished]
            return sum(part.ended for part in parts), len(parts), "; ".join(words)

    def _hello(self, message: PageHello) -> dict[str, Any]:
        with self._lock:
            visit = self._visits.get(message.visit)
            if visit is None:
                if len(self._visits) >= MOST_DEVICES:
                    raise MeasurementError("There are too many pages", expected=f"at most {MOST_DEVICES}")
                parts = {(file, own): VisitPart() for file in range(len(self.files)) for own in message.backends}
                visit = Visit(self._free_label(message.facts), message.facts, message.backends, parts, self._clock())
                self._visits[message.visit] = visit
                self._heard(f"{visit.label} came: {', '.join(visit.backends)}.")
            else:
                visit.loads += 1
                visit.seen = self._clock()
            ended = [
                {"file": file, "backend": backend, **_shown(part)}
                for (file, backend), part in visit.parts.items()
                if part.ended
            ]
            return {"label": visit.label, "backends": list(visit.backends), "ended": ended}

    def _free_label(self, facts: BrowserFacts) -> str:
        taken = {own.label for own in self._visits.values()}
        names = (facts.slug, *(f"{facts.slug}-{number}" for number in range(2, MOST_DEVICES + 2)))
        return next(name for name in names if name not in taken)

    def _sign(self, visit: Visit, message: PageSign) -> dict[str, Any]:
        visit.stage = f"{message.stage} {message.done}/{message.total}" if message.total else message.stage
        if message.finished:
            missing = [key for key, part in visit.parts.items() if not part.ended]
            if missing:
                return {"kept": False, "missing": [{"file": file, "backend": backend} for file, backend in missing]}
            visit.finished = True
        return {"kept": True}

    def _begin(self, part: VisitPart, message: PagePart) -> dict[str, Any]:
        if part.ended:
            return {"ended": True, **_shown(part)}
        if message.attempt != part.attempt:
            part.attempt, part.times, part.outputs = message.attempt, {}, {}
        return {"ended": False}

    def _times(self, visit: Visit, part: VisitPart, message: PageTimes) -> dict[str, Any]:
        own = (message.warmup, message.values)
        if part.times.get(message.sequence, own) != own:
            raise MeasurementError("Other times came under this number before", got=message.sequence)
        if part.ended:
            return {"kept": message.sequence in part.times}
        limit = self._sampling.max_warmup if message.warmup else self._sampling.max_samples
        others = sum(
            len(values)
            for sequence, (kind, values) in part.times.items()
            if kind == message.warmup and sequence != message.sequence
        )
        if others + len(message.values) > limit:
            raise MeasurementError("There are more times than were asked for", expected=f"at most {limit}")
        part.times[message.sequence] = own
        return {"kept": True}

    def _outputs(self, visit: Visit, part: VisitPart, message: PageOutputs) -> dict[str, Any]:
        file = self.files[message.file]
        raw = message.raw()
        if message.first + len(raw) > len(file.pictures):
            raise MeasurementError("There are fewer pictures", expected=f"at most {len(file.pictures)}")
        size = file.answers.shape[1] * file.output_dtype.itemsize
        for index, output in enumerate(raw, message.first):
            if len(output) != size:
                raise MeasurementError("An output has another size", expected=f"{size} bytes", got=len(output))
            if part.outputs.get(index, output) != output:
                raise MeasurementError("Another output came for this picture before", got=index)
        if not part.ended:
            part.outputs.update(enumerate(raw, message.first))
        return {"kept": True}

    def _done(self, visit: Visit, part: VisitPart, message: PageDone) -> dict[str, Any]:
        if part.ended:
            return {"kept": True, **_shown(part)}
        file = self.files[message.file]
        batches = [number for number in range(message.batches) if number not in part.times]
        pictures = [number for number in range(len(file.pictures)) if number not in part.outputs]
        timed = not self.software(visit, message.backend)
        if batches or pictures:
            return {"kept": False, "batches": batches[:1000], "pictures": pictures[:1000]}
        if timed and not part.series(warmup=False):
            raise MeasurementError(f"{file.name} has no times")
        part.verdict = judge_answers(file, self._real(file, part))
        part.done = message
        words = f"WRONG: {part.verdict.wrong}" if part.verdict.wrong else part.verdict.words
        self._heard(f"{visit.label}: {file.name} on {message.backend}: {words}.")
        return {"kept": True, **_shown(part)}

    def _failed(self, visit: Visit, part: VisitPart, message: PageFailure) -> dict[str, Any]:
        if not part.ended:
            part.failure = message.what
            self._heard(f"{visit.label}: {self.files[message.file].name} on {message.backend} failed: {message.what}")
        return {"kept": True, **_shown(part)}

    @staticmethod
    def software(visit: Visit, backend: WebBackend) -> bool:
        """Whether a backend is a GPU's driver that computes on the CPU, which is never timed."""
        return backend == "webgpu" and visit.facts.gpu is not None and visit.facts.gpu.software

    @staticmethod
    def _real(file: OfferedFile, part: VisitPart) -> npt.NDArray[np.float32]:
        return np.stack([file.real(part.outputs[index]) for index in range(len(file.pictures))])


def new_token() -> str:
    """Returns a secret for the address of a bench, 128 random bits."""
    return secrets.token_urlsafe(16)


def _shown(part: VisitPart) -> dict[str, Any]:
    """Returns what the page shows of a part that ended."""
    if part.failure is not None:
        return {"failure": part.failure}
    values = part.series(warmup=False)
    verdict = part.verdict
    return {
        "median_s": float(np.median(values)) if values else None,
        "values": len(values),
        "verdict": verdict.words if verdict else "",
        "wrong": verdict.wrong if verdict else None,
    }
