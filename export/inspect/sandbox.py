"""A process of its own for files nobody vouches for: a crash, hang or flood in it is an error here, and no more.

Engines and parsers are native code, and a damaged or hostile file may end the process that opens it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import runtime
from runtime import ArtifactError, MissingExtraError, PocketVitError, Progress, silent

SILENCE_S = 120.0
"""So long may a job say nothing."""

_LONGEST_LINE = 2**26
_FIX = "The file is damaged or hostile, or the engine cannot take it: copy it or export it again"


_CHILD = ("-m", "export.inspect.sandbox_child")


class Sandbox:
    """Has jobs done on files by a child process, one after another; a child that dies is replaced at the next job.

    Args:
        silence_s: a job that says nothing for so long is ended.
    """

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self.silence_s = silence_s
        self._child: _Child | None = None
        self._asked = 0

    def __enter__(self) -> Sandbox:
        """Starts nothing yet: the first job does."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the child."""
        self.close()

    def close(self) -> None:
        """Ends the child, if there is one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def ask(self, job: str, path: Path, progress: Progress = silent, **request: Any) -> Any:
        """Has ``job`` done on the file ``path``; returns its result as JSON values.

        Raises:
            ArtifactError: the child crashed on the file, or took too long, or answered nothing that can be read; and
                whatever the job raises.
        """
        if self._child is None or self._child.ended():
            self.close()
            self._child = _Child()
        self._asked += 1
        question = {"id": self._asked, "job": job, "path": str(path.resolve()), "silence_s": self.silence_s, **request}
        try:
            return self._answer(self._child, path, question, progress)
        except PocketVitError:
            raise
        except BaseException:
            self.close()
            raise

    def _answer(self, child: _Child, path: Path, question: dict[str, Any], progress: Progress) -> Any:
        child.send(question)
        who, doing = "The reader", "reading"
        until = time.monotonic() + self.silence_s
        while True:
            try:
                line = child.lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                self.close()
                raise ArtifactError(
                    f"{who} hung while {doing} {path}", expected=f"a sign within {self.silence_s:g} s", fix=_FIX
                ) from None
            if line is None:
                got = child.last_words()
                self.close()
                raise ArtifactError(
                    f"{who} crashed while {doing} {path}", expected="a model file it can take", got=got, fix=_FIX
                )
            said = _parsed(line)
            if said.get("id") != question["id"]:
                continue
            until = time.monotonic() + self.silence_s
            try:
                match said:
                    case {"doing": [str(who), str(doing)]}:
                        pass
                    case {"progress": [stage, done, total, note]}:
                        progress(str(stage), int(done), int(total), str(note))
                    case {"missing": [str(package), str(extra)]}:
                        raise MissingExtraError(package, extra)
                    case {"error": str(name), "text": str(text)}:
                        raise _error(name, text)
                    case {"result": result}:
                        return result
            except (TypeError, ValueError, OverflowError) as error:
                if isinstance(error, PocketVitError):
                    raise
                raise ArtifactError(f"{who} gave no sensible answer while {doing} {path}", got=line[:100]) from error


class _Child:
    """One child process, with a thread that listens to it."""

    def __init__(self) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()
        # without -P a folder named `runtime` where the user stands would be taken for ours
        command = [sys.executable, "-P", *_CHILD]
        packages = os.pathsep.join(
            filter(None, (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")))
        )
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": packages},
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # closed meanwhile
            while line := self._process.stdout.readline(_LONGEST_LINE):
                self.lines.put(line)
        self.lines.put(None)

    def send(self, question: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # a child that died at once; its end is told where it is listened to
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """Returns how the process ended and the last line it wrote to stderr."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "a closed pipe"
        with contextlib.suppress(ValueError):
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            self._said.seek(max(0, self._said.seek(0, 2) - 2000))
            lines = self._said.read().decode(errors="replace").strip().splitlines()
            last = "".join(c if c.isprintable() else " " for c in lines[-1])[:200].strip() if lines else ""
            return f"{how} ({last.rstrip('.')})" if last else how
        return f"status {status}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError, ValueError):
                stream.close()
        self._said.close()


def _parsed(line: str) -> dict[str, Any]:
    """Returns a line's JSON object, or an empty one."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _error(name: str, text: str) -> PocketVitError:
    """Returns the error of that name with a text that is whole already."""
    kind = getattr(runtime, name, ArtifactError)
    if not (isinstance(kind, type) and issubclass(kind, PocketVitError)) or kind is MissingExtraError:
        kind = ArtifactError
    error: PocketVitError = kind(text)
    return error
