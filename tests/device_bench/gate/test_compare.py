from dataclasses import replace
from pathlib import Path

import pytest

from device_bench.documents.results import BENCH_DOCUMENT
from device_bench.gate.compare import compare_results

RESULT = BENCH_DOCUMENT.read(Path(__file__).parents[1] / "golden" / "bench_v1.json")


def test_times_of_one_machine_are_compared():
    for one in compare_results(RESULT, RESULT):
        assert one.same_bytes
        assert one.reason is None
        assert one.latency is not None
        assert one.latency.value == pytest.approx(1)
        assert one.latency.low <= 1 <= one.latency.high


@pytest.mark.parametrize(
    ("change", "said"),
    [({"cpu_model": "another"}, "processor"), ({"governor": "another"}, "governor"), ({"board": "Pi"}, "board")],
)
def test_times_of_different_machines_are_not(change, said):
    other = replace(RESULT, before=replace(RESULT.before, **change))
    for found in (compare_results(RESULT, other), compare_results(other, RESULT)):
        assert found
        for one in found:
            assert one.latency is None
            assert one.reason is not None
            assert f"the machines differ in {said}" in one.reason


def test_nor_those_of_other_engines_threads_or_targets():
    first, *others = RESULT.files
    for change, said in (({"threads": 2}, "threads"), ({"engine_version": "0"}, "engines"), ({"batch": 4}, "batches")):
        found = compare_results(RESULT, replace(RESULT, files=(replace(first, **change), *others)))
        assert found[0].latency is None
        assert said in str(found[0].reason)
        assert all(one.latency is not None for one in found[1:])
    assert all("targets" in str(one.reason) for one in compare_results(RESULT, replace(RESULT, target="cuda")))


def test_only_files_of_both_are_compared():
    first = RESULT.files[0]
    changed = replace(RESULT, files=(replace(first, sha256="0" * 64),))
    (one,) = compare_results(RESULT, changed)
    assert one.file == first.file
    assert not one.same_bytes
    assert compare_results(RESULT, replace(RESULT, files=(replace(first, file="third.onnx"),))) == ()
