"""Instructions an emulated processor executed for one run of a file: a figure of its kernels that does not wobble."""

from __future__ import annotations

from dataclasses import dataclass

from runtime import MeasurementError

CLASSES = ("all", "simd", "ldst", "branch", "alu", "dot")


@dataclass(frozen=True)
class Instructions:
    """Executed instructions by class, each class a tuple with a value for each counted run.

    Attributes:
        core: that was emulated, such as ``cortex-a72``.
        all: of any kind.
        simd: of the vector and floating-point unit, dot products included; not those of the C and C++ libraries and of
            Python, which fill memory and grow tables, as often as where it happens to lie makes it.
        ldst: loads and stores.
        branch: branches and system instructions.
        alu: what is none of these.
        dot: dot products of 8-bit integers, SDOT and UDOT; they are in ``simd`` too.

    Raises:
        MeasurementError: there is no run, the classes have different numbers of runs, or a count cannot be.
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
        """Returns the count of one class for one run: the fewest of the runs, as what disturbs one only adds to it.

        Args:
            name: one of ``CLASSES``.
        """
        counts: tuple[int, ...] = getattr(self, name)
        return min(counts)
