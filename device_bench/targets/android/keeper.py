"""A temporary folder on a phone: a shell program there removes it when this program ends or the link is cut."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from runtime import MeasurementError

from .client import QUICK_S, Adb, Running, explain_for

BASE = "/data/local/tmp"
"""Folder from which Android lets its shell run programs."""

BEAT_S, SILENCE_S = 3.0, 15.0
"""Time between two lines to the keeper, and the time it waits for one, s."""

_CLEAR_S = 15.0
_MARK = "pocketvit"

# for mksh, Android's shell, and bash; $1 of `clear` is a folder. What runs from a folder has it as its working folder.
# The keeper's number and token are in the folder's name, so that a keeper whose number another process took is dead.
# A hang-up may come at any moment of `finish` and once more: whoever gets to `over` first clears up. No trap on EXIT,
# for a shell that is on its way out when the hang-up comes gives that up.
_PROGRAM = r"""
end_all() {
  for link in /proc/[0-9]*/cwd; do
    at=$(readlink "$link" 2>/dev/null)
    case "$at" in "$1"|"$1/"*|"$1 (deleted)") p=${link#/proc/}; kill -9 "${p%/cwd}" 2>/dev/null;; esac
  done
}
clear() { end_all "$1"; rm -rf "$1"; [ -e "$1" ] && { sleep 1; end_all "$1"; rm -rf "$1"; }; [ ! -e "$1" ]; }
cd / || exit 1
umask 077
for old in @BASE@/@MARK@-*; do
  [ -d "$old" ] || continue
  rest=${old##*-}; token=${old%-*}; token=${token##*-}
  grep -q "$token" "/proc/$rest/cmdline" 2>/dev/null || clear "$old"
done
here=@BASE@/@MARK@-@TOKEN@-$$
mkdir "$here" || exit 1
finish() {
  [ -z "$over" ] || return
  over=1
  trap "" HUP INT TERM PIPE
  clear "$here" && echo gone
  exit 0
}
over=
trap finish HUP INT TERM PIPE
echo "ready $here"
while read -r -t @SILENCE@ beat; do :; done
finish
"""

_END_ALL = _PROGRAM.split("clear()", 1)[0].strip()


@dataclass
class Kept:
    """A temporary folder on a phone.

    Attributes:
        path: path on the phone.
        left_behind: whether its removal could not be confirmed.
    """

    path: str
    left_behind: bool = False
    _keeper: Running | None = field(default=None, repr=False)
    _lost: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def lost(self) -> bool:
        """Whether the keeper has ended, and the folder with it, because the link was cut."""
        return self._lost.is_set() or self._keeper is None or not self._keeper.say("")


def keeper_program(token: str, *, base: str = BASE, silence_s: float = SILENCE_S) -> str:
    """Returns the shell program that makes a folder, prints ``ready`` and the path, and keeps it while lines arrive.

    It first removes folders whose keepers are dead. When its input ends, no line arrives for ``silence_s``, or it reads
    the line that ends it, it kills what runs from the folder, removes the folder and prints ``gone``.

    Args:
        token: letters and digits that no other folder has.
        base: parent folder.
        silence_s: longest time without a line, s.
    """
    words = {"@BASE@": shlex.quote(base), "@MARK@": _MARK, "@TOKEN@": token, "@SILENCE@": f"{silence_s:g}"}
    program = _PROGRAM
    for word, value in words.items():
        program = program.replace(word, value)
    return program.strip()


def end_all_in(path: str) -> str:
    """Returns the line of shell that kills all processes that run from a folder."""
    return f"{_END_ALL}\ncd / && end_all {shlex.quote(path)}"


@contextlib.contextmanager
def kept_folder(adb: Adb, *, base: str = BASE, beat_s: float = BEAT_S, silence_s: float = SILENCE_S) -> Iterator[Kept]:
    """Makes a folder on a phone and removes it at the end of the ``with`` block, however that ends.

    Args:
        adb: the phone.
        base: parent folder.
        beat_s: time between two lines to the keeper, s.
        silence_s: time without a line after which the phone removes the folder, s.

    Raises:
        MeasurementError: the phone cannot make the folder.
    """
    program = keeper_program(secrets.token_hex(6), base=base, silence_s=silence_s)
    keeper = adb.runner.start((adb.program, "-s", adb.serial, "shell", "-T", program))
    over = threading.Event()
    try:
        kept = Kept(_wait_ready(adb, keeper, base), _keeper=keeper)
        threading.Thread(target=_beat, args=(kept, keeper, over, beat_s), name="adb beat", daemon=True).start()
        yield kept
    finally:
        over.set()
        done = keeper.end(_CLEAR_S)
    kept.left_behind = "gone" not in done.stdout.splitlines()


def _wait_ready(adb: Adb, keeper: Running, base: str) -> str:
    """Returns the path that the keeper prints.

    Raises:
        MeasurementError: the keeper made no folder.
    """
    lines: list[str] = []
    while (line := keeper.next_line(QUICK_S)) is not None:
        found = re.fullmatch(rf"ready ({re.escape(base)}/{_MARK}-[0-9a-f]+-\d+)", line.strip())
        if found:
            return found.group(1)
        lines.append(line)
    text = "\n".join(lines)
    known = explain_for(adb.label)(1, text)
    if known is not None:
        raise known
    raise MeasurementError(
        f"{adb.label} cannot make a folder in {base}",
        got=text.strip()[-300:] or "no answer",
        fix=f"See whether there is space: adb -s {adb.serial} shell df {base}",
    )


def _beat(kept: Kept, keeper: Running, over: threading.Event, beat_s: float) -> None:
    while not over.wait(beat_s):
        if not keeper.say(""):
            kept._lost.set()
            return
