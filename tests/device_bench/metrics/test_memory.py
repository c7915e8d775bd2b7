import pytest

from device_bench.documents.figures import MemoryUse
from device_bench.metrics.memory import current_rss_bytes, maxrss_to_bytes, peak_rss_bytes
from runtime import MeasurementError


def test_units_of_maxrss_differ_by_system():
    assert maxrss_to_bytes(2048, "linux") == 2_097_152
    assert maxrss_to_bytes(2048, "darwin") == 2048


def test_procfs_comes_first(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2000 kB\nVmRSS:\t    1500 kB\n")
    assert peak_rss_bytes(tmp_path) == 2_048_000
    assert current_rss_bytes(tmp_path) == 1_536_000


def test_without_procfs_the_system_call_answers(tmp_path):
    assert peak_rss_bytes(tmp_path) > 5_000_000
    assert current_rss_bytes(tmp_path) > 5_000_000


def test_a_missing_figure_needs_a_reason():
    with pytest.raises(MeasurementError):
        MemoryUse(None, 4)
    with pytest.raises(MeasurementError):
        MemoryUse(0, 4)
