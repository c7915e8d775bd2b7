"""Runs programs as named steps; an error carries the last line of the output and a cure."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime import MeasurementError

StepRunner = Callable[..., "subprocess.CompletedProcess[bytes]"]

TIMEOUT_S = 900.0
"""Longest time of a step, s; some download tens of megabytes."""


@dataclass(frozen=True)
class Steps:
    """Runs programs, each as a named step.

    Attributes:
        run: function like ``subprocess.run``.
        timeout_s: longest time of each step, s.
        making: product of the steps, for the error text.
    """

    run: StepRunner = field(default=subprocess.run)
    timeout_s: float = TIMEOUT_S
    making: str = "the emulated boards"

    def __call__(
        self,
        step: str,
        argv: Sequence[str | Path],
        fix: str,
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> str:
        """Runs a program and returns its standard output.

        Args:
            step: name of the step for the error text, such as ``fetching the engines``.
            argv: program and arguments.
            fix: what to do if it fails.
            cwd: working folder.
            env: additional environment variables.

        Raises:
            MeasurementError: the program is missing, fails or takes too long.
        """
        what = f"Making {self.making} failed: {step}"
        try:
            done = self.run(
                [str(word) for word in argv],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise MeasurementError(what, got=f"no program {error.filename}", fix=fix) from None
        except OSError as error:
            raise MeasurementError(what, got=error.strerror, fix=fix) from error
        except subprocess.TimeoutExpired:
            raise MeasurementError(what, got=f"no end of {argv[0]} after {self.timeout_s:g} s", fix=fix) from None
        if done.returncode:
            last = last_line(done.stderr) or last_line(done.stdout) or "no message"
            raise MeasurementError(what, got=f"status {done.returncode} of {argv[0]}: {last}", fix=fix)
        return done.stdout.decode(errors="replace")


def last_line(output: bytes) -> str:
    """Returns the last line of a program's output that is not empty, at most 300 characters."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    # the last line of mount is a hint where to find more
    return next((line for line in reversed(lines) if line and not line.startswith("dmesg(1)")), "")[:300]
