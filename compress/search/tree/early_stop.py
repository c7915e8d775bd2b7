"""Whether a few draws settle how many marked items a set holds: a test that may be asked again as more are drawn."""

from __future__ import annotations

from math import comb


class Sequential:
    """Tells when more than ``allowed`` of ``size`` items are marked, from items drawn at random without putting back.

    Asked k times, the k-th answer may be wrong with a chance of ``error / 2^k``: all of them together with ``error``.

    Args:
        size: items in the set.
        allowed: marked ones, at most.
        error: chance of saying that there are more where there are not; with 0 it never says so.
    """

    def __init__(self, size: int, allowed: int, error: float) -> None:
        self._size, self._allowed, self._left = size, allowed, error / 2

    def next_step(self, drawn: int) -> int:
        """Returns how many to draw before it is worth asking; 0 where asking is of no use any more."""
        if not self._left or not 0 <= self._allowed < self._size or drawn >= self._size:
            return 0
        if drawn:
            return drawn
        # the fewest that settle it if all of them are marked
        return next(n for n in range(1, self._size + 1) if comb(self._allowed, n) <= self._left * comb(self._size, n))

    def settled(self, drawn: int, marked: int) -> bool:
        """Returns whether ``marked`` of the ``drawn`` are too many for so few in the set.

        They are where even with ``allowed`` marked, so many are drawn with a smaller chance than may be wrong:
        the upper tail of the hypergeometric distribution.
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
