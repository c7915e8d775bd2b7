"""Other machines to measure on: boards over ssh, phones over adb, and emulated boards."""

from .device import BACKENDS, CPU_FAMILIES, Backend, CpuFamily, Device
from .link import Link

__all__ = ["BACKENDS", "CPU_FAMILIES", "Backend", "CpuFamily", "Device", "Link"]
