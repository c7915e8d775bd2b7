"""The time of the parts of a file: by type of operator for ONNX, by part of the model for TFLite.

LiteRT has no profiler in Python, so a TFLite file is cut short after each part and the cuts are timed in turns. The
time of a part is the difference to the cut before it. Cuts undo fusion across parts, so the sum of all parts differs
slightly from the time of the whole file.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from runtime import ArtifactError, MissingExtraError, Progress, quiet
from runtime.engines.litert import load_interpreter

from .parts import Part, model_parts

_PERCENT = 10
_ROUNDS = (5, 300)
_TOGETHER_BYTES = 1_500_000_000
_RUNS = (5, 50)


@dataclass(frozen=True)
class OpTimeRow:
    """Seconds of one image in one part or type of operator; noise can make a difference negative."""

    what: str
    seconds: float


@dataclass(frozen=True)
class Times:
    """The time of the parts of a file.

    Attributes:
        by: meaning of the rows.
        rows: parts in their order, or types of operator with the longest first.
        whole_s: seconds of the whole file in the same measurement.
        runs: timed runs of each row.
        threads: of the engine.
        how: method of measurement, in words.
    """

    by: Literal["part", "op type"]
    rows: tuple[OpTimeRow, ...]
    whole_s: float
    runs: int
    threads: int
    how: str


def onnx_times(path: Path, threads: int, budget_s: float, progress: Progress) -> Times:
    """Returns the seconds of each type of operator, by ONNX Runtime's own profiler.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ArtifactError: ONNX Runtime cannot load or run the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as scratch:
        options.profile_file_prefix = str(Path(scratch) / "profile")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            feeds = {item.name: _onnx_input(item) for item in session.get_inputs()}
            runs, until = 0, time.monotonic() + budget_s / 3
            # the first run warms up and is left out
            while runs <= _RUNS[0] or (runs <= _RUNS[1] and time.monotonic() < until):
                session.run(None, feeds)
                runs += 1
                progress("time", min(runs, _RUNS[1]), _RUNS[1])
        except Exception as error:  # its exceptions share no public base but Exception
            raise ArtifactError(f"ONNX Runtime cannot run {path}", got=str(error)[:300]) from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    progress("time", _RUNS[1], _RUNS[1])
    return _from_profile(events, threads)


def _from_profile(events: list[dict[str, Any]], threads: int) -> Times:
    spans = [(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run"][1:]
    sums = [defaultdict(float) for _ in spans]  # type: list[defaultdict[str, float]]
    for event in events:
        if event.get("cat") != "Node" or not str(event.get("name", "")).endswith("_kernel_time"):
            continue
        for (begin, end), found in zip(spans, sums, strict=True):
            if begin <= event["ts"] <= end:
                found[str(event["args"].get("op_name", "unknown"))] += event["dur"] * 1e-6
    kinds = sorted({kind for found in sums for kind in found})
    rows = [OpTimeRow(kind, float(np.median([found.get(kind, 0.0) for found in sums]))) for kind in kinds]
    rows.sort(key=lambda row: -row.seconds)
    whole = float(np.median([(end - begin) * 1e-6 for begin, end in spans]))
    how = f"ONNX Runtime's profiler after its own fusions, median of {len(spans)} runs"
    return Times("op type", tuple(rows), whole, len(spans), threads, how)


def _onnx_input(item: Any) -> npt.NDArray[Any]:
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in item.shape]
    dtype = {"tensor(int8)": "i1", "tensor(uint8)": "u1", "tensor(float16)": "f2"}.get(item.type, "f4")
    return _random(tuple(shape), np.dtype(dtype))


def _random(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    generator = np.random.default_rng(0)
    if dtype.kind == "f":
        return generator.standard_normal(shape, dtype=np.float32).astype(dtype)
    return generator.integers(0, 100, shape).astype(dtype)


def tflite_times(path: Path, threads: int, budget_s: float, progress: Progress) -> Times:
    """Returns the seconds of each part of the model, by timing the file cut short after each.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ArtifactError: LiteRT cannot load or run the file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        cutter = _Cutter(path, Path(scratch) / path.name, threads)
        whole = cutter.load(None)
        once = min(whole.seconds() for _ in range(3))
        # half the file, on average, for each cut and round
        parts = next(
            (p for level in ("fine", "coarse") if (p := model_parts(path, level)) and _cost(p, once) <= budget_s),
            model_parts(path, "blocks"),
        )
        del whole
        together = max(2, min(16, int(_TOGETHER_BYTES / (2 * path.stat().st_size + 1))))
        rounds = int(np.clip(budget_s / (_cost(parts, once) / _ROUNDS[0] + 1e-9), *_ROUNDS))
        rows, last = _stretches(cutter, parts, together, rounds, progress)
    how = (
        f"the file cut short after each part, {_PERCENT}th percentile of {rounds} runs of each cut in turns, "
        "differences; fusion across a cut is lost"
    )
    return Times("part", tuple(rows), last, rounds, threads, how)


def _cost(parts: list[Part], once_s: float) -> float:
    """Returns the seconds of the fewest rounds over all cuts of a file that takes ``once_s``."""
    return _ROUNDS[0] * 0.6 * len(parts) * once_s


def _stretches(
    cutter: _Cutter, parts: list[Part], together: int, rounds: int, progress: Progress
) -> tuple[list[OpTimeRow], float]:
    """Times the cuts in groups that fit the memory; each group starts with the last cut of the one before."""
    rows: list[OpTimeRow] = []
    before: Part | None = None
    last, i = 0.0, 0
    while i < len(parts):
        group = parts[i : i + together]
        cuts = [cutter.load(part.last_op) for part in ([before] if before else []) + group]
        values = np.zeros((len(cuts), rounds))
        for r in range(rounds):
            for k in np.random.default_rng(r).permutation(len(cuts)):
                values[k, r] = cuts[k].seconds()
            progress("time", i * rounds + (r + 1) * len(group), len(parts) * rounds)
        times = [float(time) for time in np.percentile(values, _PERCENT, axis=1)]
        starts = times if before else [0.0, *times]
        rows += [OpTimeRow(part.name, end - begin) for part, begin, end in zip(group, starts, starts[1:], strict=False)]
        before, last, i = group[-1], times[-1], i + len(group)
    return rows, last


class _Cut:
    """A loaded file, cut short or whole."""

    def __init__(self, path: Path, threads: int) -> None:
        self._interpreter = load_interpreter(path, threads)
        try:
            with quiet():
                for item in self._interpreter.get_input_details():
                    shape = tuple(int(size) for size in item["shape"])
                    self._interpreter.set_tensor(item["index"], _random(shape, np.dtype(item["dtype"])))
                self._interpreter.invoke()
        except (ValueError, RuntimeError, TypeError) as error:
            raise ArtifactError(f"LiteRT cannot run {path.name}", got=str(error)[:300]) from error

    def seconds(self) -> float:
        begin = time.perf_counter()
        self._interpreter.invoke()
        return time.perf_counter() - begin


class _Cutter:
    """Writes a file's graph cut short, by changing three numbers in a copy of the file.

    The copy is changed in place between loads: an interpreter has its operators by then, and the weights it shares
    with the others stay as they are.
    """

    def __init__(self, path: Path, copy: Path, threads: int) -> None:
        self._path, self._copy, self._threads = path, copy, threads
        self._data = bytearray(path.read_bytes())
        copy.write_bytes(self._data)

    def load(self, last_op: int | None) -> _Cut:
        """Loads the file cut after operator ``last_op``, or whole."""
        if last_op is None:
            return _Cut(self._path, self._threads)
        with self._copy.open("r+b") as handle:
            for place, number in self._changes(last_op):
                handle.seek(place)
                handle.write(number.to_bytes(4, "little"))
        return _Cut(self._copy, self._threads)

    def _changes(self, last_op: int) -> list[tuple[int, int]]:
        """Returns the positions and values of the numbers that make the graph end with ``last_op``."""
        from export.graph.file_model import open_tflite

        model = open_tflite(self._path, self._data)
        graph = model.Subgraphs(0)
        output = int(graph.Operators(last_op).OutputsAsNumpy()[0])
        outputs, operators = _vector(graph, 8), _vector(graph, 10)
        changes = [(outputs, 1), (outputs + 4, output), (operators, last_op + 1)]
        if model.SignatureDefsLength():  # they name outputs that are no more
            changes.append((_vector(model, 18), 0))
        return changes


def _vector(table: Any, field: int) -> int:
    """Returns the position of the length of a table's vector; ``field`` is the field's place in its vtable."""
    offset = table._tab.Offset(field)
    if not offset:
        raise ArtifactError("The file's graph has no operators or no outputs")
    return int(table._tab.Vector(offset)) - 4
