"""Importance: how much each prunable unit of a model matters to its loss.

A criterion is a file that declares a ``Criterion`` and a line in ``CRITERIA``. A file outside the package calls
``CRITERIA.register(name, criterion)`` and is named in ``POCKETVIT_PLUGINS``.
"""

from __future__ import annotations

from runtime import PlanError
from runtime.registry import Registry

from .base import Criterion

CRITERIA: Registry[Criterion] = Registry(
    "importance criterion",
    {
        "fisher": "compress.importance.criteria:FISHER",
        "taylor": "compress.importance.criteria:TAYLOR",
        "l2": "compress.importance.criteria:L2",
        "random": "compress.importance.criteria:RANDOM",
    },
    error=PlanError,
)
"""Criteria by the name that ``--importance`` takes."""
