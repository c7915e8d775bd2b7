"""Where files are measured: the registry of targets.

A further target is one module with a ``Target`` and one line here, or ``TARGETS.register`` in a plug-in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.registry import Registry

if TYPE_CHECKING:  # listing the names imports nothing else
    from .base import Target

TARGETS: Registry[Target] = Registry(
    "target",
    {
        "cpu": "device_bench.targets.cpu:CPU",
        "cuda": "device_bench.targets.cuda:CUDA",
        "gpu": "device_bench.targets.gpu:GPU",
        "ssh:[USER@]HOST": "device_bench.targets.ssh:SSH",
        "adb:[SERIAL]": "device_bench.targets.android.adb:ADB",
        "web": "device_bench.targets.web.target:WEB",
        "web:chromium": "device_bench.targets.web.target:LOCAL_BROWSER",
        "emu:pi4|pi5": "device_bench.targets.emulated.target:EMULATED",
    },
)
"""Targets by the form of their addresses.

A form is a scheme alone, or a scheme, a colon and what stands for the place. A place in brackets may be left out.
"""
