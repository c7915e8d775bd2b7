import threading

import numpy as np
import pytest

from device_bench.metrics.throughput import measure_throughput, window
from runtime import ArtifactError, MeasurementError
from tests.device_bench.conftest import write_onnx


class FakeEngine:
    """Takes as long for a run as it is told; a free batch unless told."""

    def __init__(self, clock, cost, batch=-1):
        self.clock, self.cost = clock, cost
        self.input_shape, self.input_dtype = (batch, 4), np.dtype(np.float32)

    def run(self, data):
        self.clock.now += round(self.cost(len(data)) * 1e9)


class FakeClock:
    now = 0

    def __call__(self):
        return self.now


def sweep(tmp_path, cost, batch=-1, **options):
    clock = FakeClock()
    found = measure_throughput(
        tmp_path / "a.onnx",
        clock=clock,
        open_file=lambda path, threads: FakeEngine(clock, cost, batch),
        **{"cores": 1, **options},
    )
    return {(one.batch, one.streams, one.threads): one for one in found}


def test_a_window_counts_whole_runs_and_their_own_time():
    clock = FakeClock()
    assert window([FakeEngine(clock, lambda size: 0.3)], np.zeros((2, 4), np.float32), 1.0, clock) == pytest.approx(
        2 / 0.3
    )
    assert window([FakeEngine(clock, lambda size: 5.0)], np.zeros((2, 4), np.float32), 1.0, clock) == pytest.approx(0.4)


def test_batches_double_while_a_window_is_affordable(tmp_path):
    found = sweep(tmp_path, lambda size: 0.01 + 0.001 * size, budget_s=1.6)
    assert list(found) == [(batch, 1, 1) for batch in (1, 2, 4, 8, 16)]
    assert found[8, 1, 1].median == pytest.approx(8 / 0.018)
    assert {len(one.images_per_s) for one in found.values()} == {5}
    assert list(sweep(tmp_path, lambda size: 0.001, budget_s=9.0, max_batch=4)) == [(1, 1, 1), (2, 1, 1), (4, 1, 1)]


def test_one_image_is_measured_whatever_it_costs(tmp_path):
    assert list(sweep(tmp_path, lambda size: 60.0 * size, budget_s=0.1)) == [(1, 1, 1)]


def test_a_graph_that_takes_one_image_only_is_no_failure(tmp_path):
    def cost(size):
        if size > 1:
            raise ValueError("reshape to 1")
        return 0.001

    assert list(sweep(tmp_path, cost)) == [(1, 1, 1)]


def test_a_fixed_batch_is_the_only_one(tmp_path):
    assert list(sweep(tmp_path, lambda size: 0.001 * size, batch=8)) == [(8, 1, 1)]


def test_a_failing_run_is_said(tmp_path):
    def broken(size):
        raise ValueError("bad tensor")

    with pytest.raises(MeasurementError, match=r"a\.onnx failed.*bad tensor"):
        sweep(tmp_path, broken)
    with pytest.raises(MeasurementError, match="bad tensor"):
        sweep(tmp_path, broken, batch=1)


def test_streams_run_at_the_same_time():
    """Each run waits until all streams are in one: this ends only if they run side by side."""
    meeting = threading.Barrier(3, timeout=30)
    clock = FakeClock()

    class Meeting(FakeEngine):
        def run(self, data):
            meeting.wait()
            clock.now += 10**9

    engines = [Meeting(clock, None) for _ in range(3)]
    assert window(engines, np.zeros((1, 4), np.float32), 0.0, clock) > 0


def test_a_real_file_is_swept_over_batches_and_streams(onnx_file):
    told, signs = [], []
    found = measure_throughput(
        onnx_file,
        threads=2,
        cores=3,
        max_batch=2,
        budget_s=0.1,
        progress=lambda *said: told.append(said),
        sign=lambda: signs.append(1),
    )
    arrangements = [(one.batch, one.streams, one.threads) for one in found]
    assert arrangements[:5] == [(1, 1, 2), (2, 1, 2), (1, 1, 1), (1, 2, 1), (1, 3, 1)]
    assert arrangements[5:] in ([], [(2, 3, 1)])
    assert told[-1][1] == told[-1][2] == 5 * len(found)
    assert len(signs) > len(told)


def test_many_cores_are_reached_by_doubling(tmp_path):
    found = sweep(tmp_path, lambda size: 0.001, cores=12, batch=1, budget_s=0.01)
    assert [streams for _, streams, _ in found] == [1, 2, 3, 4, 8, 12]


def test_a_file_without_a_fixed_size_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="fixed size"):
        measure_throughput(write_onnx(tmp_path / "free.onnx", (1, "channels")))
