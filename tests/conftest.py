"""What holds for all tests."""

import gc
import os
import signal
from functools import cache

import pytest

# before torch is loaded: its threads would spin for each other beside any other busy process
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# in the background of a script, or under nohup, they are ignored, and whatever a test starts would ignore them too
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest_plugins = ["tests.boards.fixtures"]

REQUIRED = "POCKETVIT_BOARDS_REQUIRED"
"""Where this is set, a machine that cannot run emulated devices fails their tests; elsewhere they are skipped."""


def pytest_collection_finish():
    """Spares the collector of garbage the objects that the imports left, which stay until the end."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    """Makes what emulated devices need before the first test on one."""
    for marker, why_not in (("boards", why_no_boards), ("gpu", why_no_gpu)):
        if item.get_closest_marker(marker) is not None and (why := why_not()) is not None:
            if os.environ.get(REQUIRED):
                pytest.fail(why, pytrace=False)
            pytest.skip(why)


@cache
def why_no_boards():
    """Returns why emulated boards cannot run here, or None where they can."""
    from device_bench.targets.emulated import build_boards, missing_for_boards
    from runtime import MeasurementError
    from tests.boards.tools import unpacked_tools

    lacks = [f"{lack.what}: {lack.fix}" for lack in missing_for_boards()]
    if lacks:
        return f"Emulated boards cannot run here. {'; '.join(lacks)}"
    try:
        build_boards()
        unpacked_tools()
    except MeasurementError as error:
        return f"Emulated boards cannot be made here. {error}"
    return None


@cache
def why_no_gpu():
    """Returns why the software GPU cannot run here, or None where it can."""
    from device_bench.targets.software_gpu.driver import missing_for_vulkan, software_vulkan
    from runtime import MeasurementError

    lacks = [f"{lack.what}: {lack.fix}" for lack in missing_for_vulkan()]
    if lacks:
        return f"The software GPU cannot run here. {'; '.join(lacks)}"
    try:
        software_vulkan()
    except MeasurementError as error:
        return f"The software GPU cannot be fetched here. {error}"
    return None
