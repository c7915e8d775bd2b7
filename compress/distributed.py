"""Training in several processes: rank 0 does the whole job, and the other ranks join in its trainings.

They are started together, by ``torchrun`` or anything else that sets torch's variables ``RANK``, ``WORLD_SIZE``,
``MASTER_ADDR`` and ``MASTER_PORT``. Of every batch each rank computes a share; what the networks make of the shares
is gathered before any loss is taken, so that each loss is that of the whole batch, whatever it compares.
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
"""A rank that lets the others wait longer than this within a training is given up."""

_JOB_TIMEOUT_S = 30 * 86400.0
"""So long may a search between two trainings take. A rank that has died is noticed at once: its sockets close."""

_WORDS_TIMEOUT_S = 3.0
_END_TIMEOUT_S = 60.0
_PR_SET_PDEATHSIG = 1
_SET_BY_LAUNCHER = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankError(PocketVitError):
    """A process of a training that failed, and took the others with it."""

    exit_code = 1


@dataclass
class Ranks:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: of this process; 0 is the one that does the job.
        size: how many there are.
        local_rank: of this process among those of its machine.
        local_size: how many run on its machine.
        control: how rank 0 says what is to be done; none where there is but one process.
        data: what the others were sent last.
        broken: whether they have parted in the middle of a training.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    control: Any = None
    data: Any = None
    broken: bool = False

    def share(self, count: int) -> slice:
        """Returns which of ``count`` rows are this rank's; the first ranks take one more where it does not divide."""
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def largest_share(self, count: int) -> int:
        """Returns how many of ``count`` rows the first rank has."""
        return -(-count // self.size)

    def whole(self, own: torch.Tensor, count: int) -> torch.Tensor:
        """Returns all ``count`` rows from every rank's share; gradients flow back to the own share.

        Their gradients are multiplied by the number of ranks, over which ``in_lockstep`` then takes the mean: together
        that is the gradient of the whole batch. What is computed of the whole batch is the same on every rank, and
        the mean leaves its gradients as they are.

        Args:
            own: ``(share, ...)``; rows beyond the share are left out.
            count: rows of the whole batch.
        """
        if self.size == 1:
            return own
        rows: torch.Tensor = _Gather.apply(own, count, self)
        return rows

    def agreed(self, *values: float) -> tuple[float, ...]:
        """Returns rank 0's values on every rank."""
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(numbers, src=0)
        return tuple(numbers.tolist())

    def told(self, value: Any) -> Any:
        """Returns rank 0's value on every rank: anything that can be pickled."""
        if self.size == 1:
            return value
        box = [value if self.rank == 0 else None]
        distributed.broadcast_object_list(box, src=0, group=self.control, device=torch.device("cpu"))
        return box[0]

    def check_equal(self, what: str) -> None:
        """Makes sure that every rank has the same text.

        Raises:
            RankError: one has another; raised on that rank.
        """
        if self.told(what) != what:
            raise RankError(
                "It was not given the training that rank 0 has",
                fix="Install the same version of everything on every machine",
            )

    @contextmanager
    def together(self, follow: Callable[..., None], data: Any, *task: Any) -> Iterator[None]:
        """Has every other rank call ``follow(data, *task)`` while rank 0 does the same in the block.

        Args:
            follow: a function of a module.
            data: sent where the others have not got it already.
            task: anything that can be pickled.

        Raises:
            RankError: another rank failed.
            ModelError: a network cannot be sent.
        """
        if self.size == 1 or self.rank:
            yield
            return
        if self.broken:
            raise RankError("The processes have parted already", fix="Start them anew")
        try:
            try:
                self.told((follow, None if data is self.data else data, torch.get_num_threads(), task))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise ModelError(
                    "A network cannot be sent to other processes", got=error, fix="Train it without torchrun"
                ) from error
            self.data = data
            self.broken = True
            yield
            self.broken = False
        except RuntimeError as error:
            said = _last_words(self.size, _WORDS_TIMEOUT_S)
            if not _is_parting(error) and not any(text for text in said.values()):
                raise
            raise _failure(said, self.size) from error

    def serve(self) -> int:
        """Joins in the trainings of rank 0 until it says that all is over, or is gone; returns an exit code."""
        try:
            while True:
                order = self.told(None)
                if order is None:
                    return 0
                follow, data, threads, task = order
                self.data = data if data is not None else self.data
                torch.set_num_threads(threads)
                follow(self.data, *task)
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            said = _said_of(error)
        _report(self.rank, said)
        return 1


ALONE = Ranks()

_current = [ALONE]


def current_ranks() -> Ranks:
    """Returns the processes that train together with this one; ``ALONE`` outside of ``joined``."""
    return _current[0]


def launched() -> bool:
    """Says whether this process was started as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and all(name in os.environ for name in ("RANK", "MASTER_ADDR"))


@contextmanager
def joined(timeout_s: float = STEP_TIMEOUT_S) -> Iterator[Ranks]:
    """Joins the processes that were started together; does nothing where this one was started alone.

    On rank 0 the block runs, and the others serve it until it ends. On every other rank the program ends here.

    Args:
        timeout_s: how long one rank lets the others wait within a training, seconds.

    Raises:
        RankError: the others cannot be reached.
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
    """Returns ``loss``, after whose backward pass the parts' gradients are the mean over all ranks.

    It also gives the parts of every rank the weights they have on rank 0.

    Args:
        ranks: who trains.
        parts: what is trained.
        loss: makes the loss of a batch from them.
    """
    if ranks.size == 1:
        return loss
    return DistributedDataParallel(_Lockstep(parts, loss))


def check_shareable(network: nn.Module) -> None:
    """Refuses to train a network in shares that would then learn something else than from whole batches.

    Raises:
        ModelError: it goes by the statistics of a batch, or drops activations at random.
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
    told = {name: os.environ.get(name, "") for name in _SET_BY_LAUNCHER}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_parent()
    # several backends: what lives on the CPU goes one way, what lives on GPUs another
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        control = distributed.new_group(backend="gloo", timeout=timedelta(seconds=_JOB_TIMEOUT_S))
    except (RuntimeError, ValueError) as error:
        raise RankError(
            "The other processes cannot be reached", got=str(error).splitlines()[0], fix="Look at torchrun's options"
        ) from error
    for name in list(os.environ):
        # what this process starts is no rank
        if name in _SET_BY_LAUNCHER or name.startswith(("TORCHELASTIC_", "ROLE_")):
            del os.environ[name]
    return Ranks(
        rank=distributed.get_rank(),
        size=distributed.get_world_size(),
        local_rank=int(told["LOCAL_RANK"] or 0),
        local_size=int(told["LOCAL_WORLD_SIZE"] or 1),
        control=control,
    )


def _end_with_parent() -> None:
    """Has Linux end this process when its launcher dies, however that dies; elsewhere it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _dismiss(ranks: Ranks) -> None:
    """Tells the other ranks that all is over; those in the middle of a training notice by themselves."""
    try:
        if not ranks.broken:
            ranks.told(None)
        _store().set("over", "1")
    except RuntimeError:
        return


def _store() -> Any:
    return distributed.distributed_c10d._get_default_store()


def _is_parting(error: RuntimeError) -> bool:
    """Says whether an error comes of the talk between processes."""
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo", "NCCL"))


def _said_of(error: Exception) -> str:
    """Returns what rank 0 is to say of an error; nothing where another rank's end is behind it."""
    if isinstance(error, PocketVitError):
        return str(error)
    if isinstance(error, RuntimeError) and _is_parting(error):
        return ""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def _report(rank: int, text: str) -> None:
    """Leaves word why this rank ends, parts from the others, and lets rank 0 say so before the launcher stops it."""
    try:
        store = _store()
        store.set(f"failed/{rank}", json.dumps(text))
        # what is left of the training holds the connections open
        gc.collect()
        distributed.destroy_process_group()
        store.wait(["over"], timedelta(seconds=_END_TIMEOUT_S))
    except RuntimeError:
        return


def _last_words(size: int, timeout_s: float) -> dict[int, str]:
    """Returns what ranks left word of; empty texts are of those that were left by another."""
    end, said = time.monotonic() + timeout_s, {}
    try:
        for rank in range(1, size):
            left = max(0.01, end - time.monotonic())
            try:
                _store().wait([f"failed/{rank}"], timedelta(seconds=left))
            except distributed.DistStoreError:
                continue
            said[rank] = str(json.loads(_store().get(f"failed/{rank}")))
    except RuntimeError:
        pass
    return said


def _failure(said: dict[int, str], size: int) -> RankError:
    """Puts together what rank 0 says of the others' end."""
    for rank, text in sorted(said.items()):
        if text:
            return RankError(f"Rank {rank} of {size} failed: {text}", fix="Mend that and continue with --resume")
    silent = ", ".join(str(rank) for rank in range(1, size) if rank not in said)
    return RankError(
        f"Rank {silent or 'unknown'} of {size} ended without a word",
        fix="Its process was killed or its machine is gone; continue with --resume, with any number of processes",
    )
