"""A sequential test for the number of marked items in a set, by items drawn at random."""

from __future__ import annotations

from math import comb


class Sequential:
    """Tests whether more than ``allowed`` of ``size`` items are marked, by items drawn without replacement.

    The k-th test may be wrong with a probability of ``error / 2^k``, and all tests together with ``error``.

    Args:
        size: number of items in the set.
        allowed: highest number of marked items.
        error: probability of a positive result where no more than ``allowed`` are marked; 0 gives no positive result.
    """

    def __init__(self, size: int, allowed: int, error: float) -> None:
        self._size, self._allowed, self._left = size, allowed, error / 2

    def next_step(self, drawn: int) -> int:
        """Returns how many more items to draw before the next test; 0 where no test can be positive any more."""
        if not self._left or not 0 <= self._allowed < self._size or drawn >= self._size:
            return 0
        if drawn:
            return drawn
        # the fewest that decide if all of them are marked
        return next(n for n in range(1, self._size + 1) if comb(self._allowed, n) <= self._left * comb(self._size, n))

    def settled(self, drawn: int, marked: int) -> bool:
        """Returns whether ``marked`` of ``drawn`` items show that more than ``allowed`` items are marked.

        The test is positive where the upper tail of the hypergeometric distribution for ``allowed`` marked items is
        below the error of this test.
        """
        if not self._left or not 0 <= self._allowed < self._size or drawn > self._size:
            return False
        ways = sum(
            comb(self._allowed, hits) * comb(self._size - self._allowed, drawn - hits)
            for hits in range(marked, min(drawn, self._allowed) + 1)
        )
        settled = ways <= self._left * comb(self._size, drawn)
        self._left /= 2
        return settled
