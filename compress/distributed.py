"""Training in several processes: rank 0 runs the job, and the other ranks take part in its trainings.

The processes are started together, by ``torchrun`` or any launcher that sets torch's variables ``RANK``,
``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``. Each rank computes a share of every batch. The networks' outputs
are gathered before a loss is computed, so that each loss is that of the whole batch.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from runtime import ModelError, PocketVitError

STEP_TIMEOUT_S = 1800.0
"""Longest time that one rank may let the others wait within a training, seconds."""

_JOB_TIMEOUT_S = 30 * 86400.0
"""Longest time between two trainings, seconds. A rank that has died is noticed at once, since its sockets close."""

_REPORT_TIMEOUT_S = 3.0
_END_TIMEOUT_S = 60.0
_PR_SET_PDEATHSIG = 1
_SET_BY_LAUNCHER = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankError(PocketVitError):
    """A process of a training failed, which ended the training in all processes."""

    exit_code = 1


@dataclass
class Ranks:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: rank of this process; 0 is the one that does the job.
        size: how many there are.
        local_rank: local rank of this process among those of its machine.
        local_size: how many run on its machine.
        control: process group by which rank 0 sends orders; None where there is one process.
        data: the dataset that the other ranks were sent last.
        broken: whether the processes lost each other in the middle of a training.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    control: Any = None
    data: Any = None
    broken: bool = False

    def share(self, count: int) -> slice:
        """Returns this rank's share of ``count`` rows; the first ranks take one more where it does not divide."""
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def largest_share(self, count: int) -> int:
        """Returns how many of ``count`` rows the first rank has."""
        return -(-count // self.size)

    def gather(self, own: torch.Tensor, count: int) -> torch.Tensor:
        """Returns all ``count`` rows from every rank's share; gradients flow back to this rank's share.

        The gradients are multiplied by the number of ranks, and ``in_lockstep`` takes the mean over the ranks, which
        gives the gradient of the whole batch. Modules that are applied to the gathered rows have the same gradient on
        every rank, and the mean leaves it unchanged.

        Args:
            own: ``(share, ...)``; rows beyond the share are ignored.
            count: rows of the whole batch.
        """
        if self.size == 1:
            return own
        rows: torch.Tensor = _Gather.apply(own, count, self)
        return rows

    def broadcast_floats(self, *values: float) -> tuple[float, ...]:
        """Returns rank 0's values on every rank."""
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(numbers, src=0)
        return tuple(numbers.tolist())

    def broadcast(self, value: Any) -> Any:
        """Returns rank 0's value on every rank; it may be anything that can be pickled."""
        if self.size == 1:
            return value
        box = [value if self.rank == 0 else None]
        distributed.broadcast_object_list(box, src=0, group=self.control, device=torch.device("cpu"))
        return box[0]

    def check_equal(self, what: str) -> None:
        """Checks that every rank has the same text as rank 0.

        Raises:
            RankError: this rank has another text.
        """
        if self.broadcast(what) != what:
            raise RankError(
                "It was not given the training that rank 0 has",
                fix="Install the same version of everything on every machine",
            )

    @contextmanager
    def together(self, follow: Callable[..., None], data: Any, *task: Any) -> Iterator[None]:
        """Makes every other rank call ``follow(data, *task)`` while rank 0 runs the block.

        Args:
            follow: a function of a module.
            data: the dataset; sent where the other ranks do not have it yet.
            task: further arguments, which must be picklable.

        Raises:
            RankError: another rank failed.
            ModelError: a network cannot be sent.
        """
        if self.size == 1 or self.rank:
            yield
            return
        if self.broken:
            raise RankError("The processes have lost each other already", fix="Start them anew")
        try:
            try:
                self.broadcast((follow, None if data is self.data else data, torch.get_num_threads(), task))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise ModelError(
                    "A network cannot be sent to other processes", got=error, fix="Train it without torchrun"
                ) from error
            self.data = data
            self.broken = True
            yield
            self.broken = False
        except RuntimeError as error:
            reports = _read_reports(self.size, _REPORT_TIMEOUT_S)
            if not _is_parting(error) and not any(text for text in reports.values()):
                raise
            raise _failure(reports, self.size) from error

    def serve(self) -> int:
        """Takes part in the trainings of rank 0 until rank 0 ends them or dies; returns an exit code."""
        try:
            while True:
                order = self.broadcast(None)
                if order is None:
                    return 0
                follow, data, threads, task = order
                self.data = data if data is not None else self.data
                torch.set_num_threads(threads)
                follow(self.data, *task)
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            reports = _report_of(error)
        _leave_report(self.rank, reports)
        return 1


ALONE = Ranks()

_current = [ALONE]


def current_ranks() -> Ranks:
    """Returns the processes that train together with this one; ``ALONE`` outside ``joined``."""
    return _current[0]


def launched() -> bool:
    """Returns whether a launcher started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and all(name in os.environ for name in ("RANK", "MASTER_ADDR"))


@contextmanager
def joined(timeout_s: float = STEP_TIMEOUT_S) -> Iterator[Ranks]:
    """Joins the processes that were started together; does nothing in a process that was started alone.

    On rank 0 the block runs, and the other ranks serve it until it ends. On every other rank the program ends here.

    Args:
        timeout_s: longest time that one rank may let the others wait within a training, seconds.

    Raises:
        RankError: the other processes cannot be reached.
        SystemExit: on every rank but 0.
    """
    if not launched():
        yield ALONE
        return
    ranks = _join(timeout_s)
    _current[0] = ranks
    # a dimension of size 1 may have any stride, and torch takes one for another layout
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    try:
        if ranks.rank:
            sys.exit(ranks.serve())
        try:
            yield ranks
        finally:
            _dismiss(ranks)
    finally:
        _current[0] = ALONE
        if distributed.is_initialized():
            distributed.destroy_process_group()


def in_lockstep(ranks: Ranks, parts: list[nn.Module], loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Returns ``loss``, wrapped so that the parts' gradients are averaged over all ranks in the backward pass.

    It also copies the weights of the parts from rank 0 to every rank.

    Args:
        ranks: the processes that train together.
        parts: the modules that are trained.
        loss: computes the loss of a batch with them.
    """
    if ranks.size == 1:
        return loss
    return DistributedDataParallel(_Lockstep(parts, loss))


def check_shareable(network: nn.Module) -> None:
    """Refuses a network that learns something else from shares of batches than from whole batches.

    Raises:
        ModelError: the network uses statistics of a batch, or drops activations at random.
    """
    for name, part in network.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            reason = f"'{name}' goes by the statistics of a whole batch, and each process sees a share of it"
        elif float(getattr(part, "drop_prob", None) or 0.0) > 0:
            reason = f"'{name}' drops paths at random, and each process would drop others"
        elif isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            reason = f"'{name}' drops activations at random, and each process would drop others"
        else:
            continue
        raise ModelError(
            f"{type(network).__name__} cannot be trained in several processes: {reason}",
            fix="Train it in one process first, without torchrun, and name its folder with --teacher",
        )


class _Lockstep(nn.Module):
    def __init__(self, parts: list[nn.Module], loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.parts, self.loss = nn.ModuleList(parts), loss

    def forward(self, *batch: Any) -> torch.Tensor:
        return self.loss(*batch)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, count: int, ranks: Ranks) -> torch.Tensor:
        ctx.rows, ctx.size, ctx.given = ranks.share(count), ranks.size, len(own)
        mine = ctx.rows.stop - ctx.rows.start
        padded = own.new_zeros(ranks.largest_share(count), *own.shape[1:])
        padded[:mine] = own[:mine]
        parts = [torch.empty_like(padded) for _ in range(ranks.size)]
        distributed.all_gather(parts, padded)
        each, more = divmod(count, ranks.size)
        return torch.cat([part[: each + (rank < more)] for rank, part in enumerate(parts)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        own = gradients[0][ctx.rows] * ctx.size
        beyond = own.new_zeros(ctx.given - len(own), *own.shape[1:])
        return torch.cat([own, beyond]), None, None


def _join(timeout_s: float) -> Ranks:
    launched_with = {name: os.environ.get(name, "") for name in _SET_BY_LAUNCHER}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_parent()
    # tensors on the CPU and on GPUs need different backends
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        control = distributed.new_group(backend="gloo", timeout=timedelta(seconds=_JOB_TIMEOUT_S))
    except (RuntimeError, ValueError) as error:
        raise RankError(
            "The other processes cannot be reached", got=str(error).splitlines()[0], fix="Look at torchrun's options"
        ) from error
    for name in list(os.environ):
        # child processes are no ranks
        if name in _SET_BY_LAUNCHER or name.startswith(("TORCHELASTIC_", "ROLE_")):
            del os.environ[name]
    return Ranks(
        rank=distributed.get_rank(),
        size=distributed.get_world_size(),
        local_rank=int(launched_with["LOCAL_RANK"] or 0),
        local_size=int(launched_with["LOCAL_WORLD_SIZE"] or 1),
        control=control,
    )


def _end_with_parent() -> None:
    """Makes Linux end this process when its launcher dies; does nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _dismiss(ranks: Ranks) -> None:
    """Tells the other ranks that the job has ended; ranks in the middle of a training notice by themselves."""
    try:
        if not ranks.broken:
            ranks.broadcast(None)
        _store().set("over", "1")
    except RuntimeError:
        return


def _store() -> Any:
    return distributed.distributed_c10d._get_default_store()


def _is_parting(error: RuntimeError) -> bool:
    """Returns whether an error comes from communication between processes."""
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo", "NCCL"))


def _report_of(error: Exception) -> str:
    """Returns the text that rank 0 reports for an error; empty where the end of another rank caused it."""
    if isinstance(error, PocketVitError):
        return str(error)
    if isinstance(error, RuntimeError) and _is_parting(error):
        return ""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def _leave_report(rank: int, text: str) -> None:
    """Stores why this rank ends, leaves the group, and waits for rank 0 to report it before the launcher stops it."""
    try:
        store = _store()
        store.set(f"failed/{rank}", json.dumps(text))
        # objects of the training hold the connections open
        gc.collect()
        distributed.destroy_process_group()
        store.wait(["over"], timedelta(seconds=_END_TIMEOUT_S))
    except RuntimeError:
        return


def _read_reports(size: int, timeout_s: float) -> dict[int, str]:
    """Returns the stored reports by rank; a rank that only lost its connection has an empty report."""
    end, reports = time.monotonic() + timeout_s, {}
    try:
        for rank in range(1, size):
            left = max(0.01, end - time.monotonic())
            try:
                _store().wait([f"failed/{rank}"], timedelta(seconds=left))
            except distributed.DistStoreError:
                continue
            reports[rank] = str(json.loads(_store().get(f"failed/{rank}")))
    except RuntimeError:
        pass
    return reports


def _failure(reports: dict[int, str], size: int) -> RankError:
    """Returns the error that rank 0 raises for the end of other ranks."""
    for rank, text in sorted(reports.items()):
        if text:
            return RankError(f"Rank {rank} of {size} failed: {text}", fix="Mend that and continue with --resume")
    silent = ", ".join(str(rank) for rank in range(1, size) if rank not in reports)
    return RankError(
        f"Rank {silent or 'unknown'} of {size} ended without a report",
        fix="Its process was killed or its machine is gone; continue with --resume, with any number of processes",
    )
