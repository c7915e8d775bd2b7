"""Schedules units of work: each begins as soon as the model that it starts from exists."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

from runtime import PocketVitError, StorageError

from .pools import Pool
from .process import Work, WorkOutcome


def carry_out(
    works: Sequence[Work],
    pool: Pool,
    prepare: Callable[[Work], None],
    done: Callable[[WorkOutcome], None],
) -> None:
    """Does all of ``works``. A work fails if the work that it needs failed; all others go on.

    Args:
        works: works with different names, in any order; a work may also need one that is done already.
        pool: the pool that does them.
        prepare: makes the folder of a work, once the work that it needs is done.
        done: called with each outcome.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    names = {work.name for work in works}
    waiting = [work for work in works if work.needs in names]
    ended = [outcome for work in works if work not in waiting if (outcome := _begun(work, pool, prepare))]
    running = len(works) - len(waiting) - len(ended)
    while running or ended:
        if ended:
            outcome = ended.pop()
        else:
            outcome, running = pool.next_done(), running - 1
        done(outcome)
        for work in [own for own in waiting if own.needs == outcome.name]:
            waiting.remove(work)
            if outcome.error is not None:
                ended.append(
                    WorkOutcome(work.name, f"The model that it starts from failed: {outcome.error}", outcome.where)
                )
            elif refused := _begun(work, pool, prepare):
                ended.append(refused)
            else:
                running += 1


def _begun(work: Work, pool: Pool, prepare: Callable[[Work], None]) -> WorkOutcome | None:
    """Begins a unit of work; returns its outcome if it cannot be begun."""
    try:
        prepare(work)
    except StorageError:  # no other one could be begun either
        raise
    except PocketVitError as error:
        return WorkOutcome(work.name, str(error), platform.node())
    pool.submit(work)
    return None
