"""Opens model files from unknown sources in a worker process: a crash, hang or flood of memory there is an error here.

Engines and parsers are native code, and a damaged or hostile file may end the process that opens it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from runtime import ArtifactError, Progress, silent
from runtime.worker.parent import SILENCE_S, Worker, WorkerError, python_module

_COMMAND = python_module("export.inspect.sandbox_child")
_FIX = "The file is damaged or hostile, or the engine cannot take it: copy it or export it again"
_MOST_CHARACTERS = 200


class Sandbox(AbstractContextManager["Sandbox"]):
    """Runs jobs on files in a child process, one after another; a child that dies is replaced at the next job.

    Args:
        silence_s: a job that sends no message for so long is killed, s.
    """

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self._worker = Worker(_COMMAND, silence_s=silence_s)

    def __exit__(self, *raised: object) -> None:
        """Ends the child process."""
        self._worker.close()

    def run(self, job: str, path: Path, progress: Progress = silent, **request: Any) -> Any:
        """Runs ``job`` on the file ``path`` and returns its result as JSON values.

        Raises:
            ArtifactError: the child crashed on the file or took too long; and whatever the job raises.
        """
        try:
            return self._worker.run(job, {"path": str(path.resolve()), **request}, progress).checked()
        except WorkerError as failure:
            who, doing = failure.doing or ("The reader", "reading")
            if failure.hung:
                raise ArtifactError(
                    f"{who} hung while {doing} {path}",
                    expected=f"a sign within {self._worker.silence_s:g} s",
                    fix=_FIX,
                ) from None
            last = failure.last_line[:_MOST_CHARACTERS].rstrip(".")
            raise ArtifactError(
                f"{who} crashed while {doing} {path}",
                expected="a model file it can take",
                got=f"{failure.how} ({last})" if last else failure.how,
                fix=_FIX,
            ) from None
