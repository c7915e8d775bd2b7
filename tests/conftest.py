"""What holds for all tests."""

import gc
import os
import signal
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

# a machine that does other work stands still for seconds at times, and a test is not wrong for it
settings.register_profile("busy machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

# before torch is loaded: its threads would spin for each other beside any other busy process
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# in the background of a script, or under nohup, they are ignored, and whatever a test starts would ignore them too
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest_plugins = ["tests.boards.fixtures", "tests.converters"]

REQUIRED = "POCKETVIT_BOARDS_REQUIRED"
"""Where this is set, a machine that cannot run emulated devices fails their tests; elsewhere they are skipped."""

GPU_REQUIRED = "POCKETVIT_GPU_REQUIRED"
"""Where this is set, as in CI, a machine without a graphics driver fails the tests on the GPU path."""

MEDIAPIPE_REQUIRED = "POCKETVIT_MEDIAPIPE_REQUIRED"
"""Where this is set, as in CI, a machine that cannot install MediaPipe fails the tests with it; elsewhere they are
skipped."""

BROWSER_REQUIRED = "POCKETVIT_BROWSER_REQUIRED"
"""Where this is set, as in CI, a machine without a browser fails the tests that open pages."""

# every export of every test would look for a graphics driver otherwise; tests on the GPU path take the variable away
os.environ["POCKETVIT_GPU"] = "none"


def pytest_collection_finish():
    """Spares the collector of garbage the objects that the imports left, which stay until the end."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    """Makes what emulated devices need before the first test on one."""
    kinds = (
        ("boards", why_no_boards, ()),
        ("gpu", why_no_gpu, (GPU_REQUIRED,)),
        ("browser", why_no_browser, (BROWSER_REQUIRED,)),
    )
    for marker, why_not, more in kinds:
        if item.get_closest_marker(marker) is not None and (why := why_not()) is not None:
            if any(os.environ.get(name) for name in (REQUIRED, *more)):
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
    """Returns why the GPU path cannot run here on software, or None where it can."""
    from runtime import PocketVitError
    from tests.boards.gpu import software_gpu_driver

    try:
        software_gpu_driver()
    except PocketVitError as error:
        return f"LiteRT's GPU path cannot run here. {error}"
    return None


@cache
def why_no_browser():
    """Returns why pages cannot be opened here, or None where they can."""
    from runtime import PocketVitError
    from tests.boards.browser import browser_for_tests

    try:
        browser_for_tests()
    except PocketVitError as error:
        return f"No page can be opened here. {error}"
    return None
