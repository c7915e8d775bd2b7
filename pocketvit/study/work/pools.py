"""Pools that do units of work: here, several in parallel on this machine."""

from __future__ import annotations

import platform
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from .process import StartProcess, Work, WorkOutcome, do, start_process


class Pool(Protocol):
    """Does units of work, some at a time."""

    def submit(self, work: Work) -> None:
        """Takes a unit of work whose folder is ready."""

    def next_done(self) -> WorkOutcome:
        """Waits for any unit of work to end, and returns its outcome; its folder is back in its place."""

    def close(self) -> None:
        """Stops all running work, and waits until it has ended."""


class LocalPool:
    """Threads of this process, each with one child process at a time."""

    def __init__(self, root: Path, workers: int, starter: StartProcess = start_process) -> None:
        self._root, self._starter = root, starter
        self._stop = threading.Event()
        self._done: queue.Queue[Future[WorkOutcome]] = queue.Queue()
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, work: Work) -> None:
        """Takes a unit of work whose folder is ready."""
        future = self._threads.submit(do, work, self._root, self._stop, platform.node(), starter=self._starter)
        future.add_done_callback(self._done.put)

    def next_done(self) -> WorkOutcome:
        """Waits for any unit of work to end, and returns its outcome."""
        while True:
            try:
                # a wait without an end would keep Ctrl-C waiting too
                return self._done.get(timeout=0.5).result()
            except queue.Empty:
                continue

    def close(self) -> None:
        """Stops all running work, and waits until it has ended."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
