"""Units of work done on the machines of a Ray cluster, which need share no file system."""

from __future__ import annotations

import os
import platform
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Any

from runtime import MissingExtraError, PocketVitError, UnsupportedTargetError, tool_version

from .archive import digest_of, pack, unpack_run
from .process import Work, WorkOutcome, do

LOCAL = "local"
RETRIES = 3
"""Most restarts of a unit of work whose worker was killed."""

_AHEAD = 2
"""Units of work that are submitted for each one that can run."""


class RayPool:
    """Does units of work as Ray's tasks, whose folders travel as archives.

    Args:
        root: the study's folder.
        address: of the cluster, as ``ray start`` prints it, or ``auto``; ``local`` starts one on this machine.
        threads: cores of one unit of work.
        workers: units at a time on a cluster that is started here; 0 takes what the cores have threads for.

    Raises:
        MissingExtraError: Ray is not installed.
        UnsupportedTargetError: there is no cluster at that address.
    """

    def __init__(self, root: Path, address: str, threads: int, workers: int = 0) -> None:
        self._ray = _ray()
        self._root, self._threads = root, threads
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address, workers)
        self._waiting: deque[Work] = deque()
        self._running: dict[Any, Work] = {}
        self._task = self._ray.remote(num_cpus=threads, max_retries=RETRIES)(do_there)

    def _connect(self, address: str, workers: int) -> None:
        cores = workers * self._threads if workers else max(os.cpu_count() or 1, self._threads)
        where: dict[str, Any] = {"address": address}
        if address == LOCAL:
            where = {"address": "local", "num_cpus": cores, "include_dashboard": False}
        try:
            self._ray.init(**where, log_to_driver=False, logging_level="error", configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise UnsupportedTargetError(
                f"There is no Ray cluster at {address}",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                fix="Start one with: ray start --head, or give --ray local",
            ) from error

    def submit(self, work: Work) -> None:
        """Takes a unit of work whose folder is ready."""
        self._waiting.append(work)
        self._hand_over()

    def _hand_over(self) -> None:
        slots = max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._threads)
        while self._waiting and len(self._running) < _AHEAD * slots:
            work = self._waiting.popleft()
            data = pack(self._root / work.name)
            self._running[self._task.remote(work, data, digest_of(data), str(Path.cwd()), tool_version())] = work

    def next_done(self) -> WorkOutcome:
        """Waits for any unit of work to end, and returns its outcome; its folder is back in its place."""
        while True:
            done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=0.5)
            if done:
                break
        work = self._running.pop(done[0])
        self._hand_over()
        try:
            outcome, data, digest = self._ray.get(done[0])
            unpack_run(data, digest, self._root / work.name)
        except PocketVitError as error:
            return WorkOutcome(work.name, str(error), "Ray")
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()
            return WorkOutcome(work.name, f"Ray gave it up: {lines[-1] if lines else type(error).__name__}", "Ray")
        return outcome  # type: ignore[no-any-return]

    def close(self) -> None:
        """Stops all running work, and leaves the cluster."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running.clear()
        if self._own:
            self._ray.shutdown()


def do_there(work: Work, data: bytes, digest: str, folder: str, version: str) -> tuple[WorkOutcome, bytes, str]:
    """Runs on a worker: unpacks a folder, works in it, and packs it.

    Args:
        work: what to do.
        data: the packed folder.
        digest: of it.
        folder: that relative paths of options start from; where there is none such, they start from the worker's own.
        version: of PocketViT on the machine that asks.
    """
    where = platform.node()
    if version != tool_version():
        text = f"PocketViT on {where} is of another version. Expected {version}. Got {tool_version()}."
        return WorkOutcome(work.name, text, where), data, digest
    if Path(folder).is_dir():
        os.chdir(folder)
    with tempfile.TemporaryDirectory(prefix="pocketvit-study-") as scratch:
        root = Path(scratch)
        unpack_run(data, digest, root / work.name)
        outcome = do(work, root, threading.Event(), where)
        packed = pack(root / work.name)
    return outcome, packed, digest_of(packed)


def _ray() -> Any:
    # before Ray is loaded: it tells nobody that it is used, and starts no page about itself
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingExtraError("ray", "distributed") from None
    return ray
