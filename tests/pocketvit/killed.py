"""Kills a command where its work passes from one state on disk to the next."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from tests.pocketvit import preloaded
from tests.pocketvit.conftest import environment


def kill_at(places: Sequence[str], root: Path, *arguments: object) -> None:
    """Starts a command again and again, and kills it a moment after the next place exists.

    Args:
        places: patterns of files below ``root``, in the order in which the command writes them.
        root: the folder that the command writes.
        arguments: the command; it goes on with what is there.

    Raises:
        AssertionError: the command ended before it could be killed at a place.
    """
    generator = random.Random(20)
    for number, place in enumerate(places):
        process = preloaded.start(*arguments, env=environment())
        process.stderr.readline()
        # some files go again, so that a later one stands for them too
        while not any(any(root.glob(later)) for later in places[number:]) and process.poll() is None:
            time.sleep(0.002)
        time.sleep(generator.uniform(0.0, 0.1))
        ended = process.poll()
        process.kill()
        _, said = process.communicate()
        assert ended is None, f"The command ended with {ended} before it was killed at {place}: {said}"
