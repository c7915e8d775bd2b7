"""Exact counts of the instructions that an emulated processor executes for one run of a file."""

from __future__ import annotations

from dataclasses import dataclass

from runtime import MeasurementError

CLASSES = ("all", "simd", "ldst", "branch", "alu", "dot")


@dataclass(frozen=True)
class Instructions:
    """Executed instructions by class, each class a tuple with a value for each counted run.

    Attributes:
        core: name of the emulated core, such as ``cortex-a72``.
        all: all instructions.
        simd: instructions of the vector and floating-point unit, with dot products. Those of the C and C++ libraries
            and of Python are left out, since their number depends on addresses in memory.
        ldst: loads and stores.
        branch: branches and system instructions.
        alu: all other instructions.
        dot: dot products of 8-bit integers, SDOT and UDOT; they are in ``simd`` too.

    Raises:
        MeasurementError: there is no run, the classes have different numbers of runs, or a count is impossible.
    """

    core: str
    all: tuple[int, ...]
    simd: tuple[int, ...]
    ldst: tuple[int, ...]
    branch: tuple[int, ...]
    alu: tuple[int, ...]
    dot: tuple[int, ...]

    def __post_init__(self) -> None:
        runs = {len(getattr(self, name)) for name in CLASSES}
        if len(runs) != 1 or runs == {0}:
            raise MeasurementError("Each class of instructions has a count for each run", got=sorted(runs))
        for total, simd, ldst, branch, alu, dot in zip(*(getattr(self, name) for name in CLASSES), strict=True):
            if min(simd, ldst, branch, alu, dot) < 0 or simd + ldst + branch + alu != total or dot > simd or not total:
                raise MeasurementError(
                    "Counts of instructions do not add up",
                    expected="simd + ldst + branch + alu = all, and dot within simd",
                    got=(total, simd, ldst, branch, alu, dot),
                )

    def of(self, name: str) -> int:
        """Returns the count of one class for one run: the least of all runs, since a disturbance only adds to it.

        Args:
            name: one of ``CLASSES``.
        """
        counts: tuple[int, ...] = getattr(self, name)
        return min(counts)
