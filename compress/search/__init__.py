"""Search methods: which units or weights of a model to remove so that it meets a budget.

A method is a file that declares a ``SearchMethod`` and a line in ``METHODS``. A file outside the package calls
``METHODS.register(name, method)`` and is named in ``POCKETVIT_PLUGINS``.
"""

from __future__ import annotations

from runtime import PlanError
from runtime.registry import Registry

from .base import SearchMethod

METHODS: Registry[SearchMethod] = Registry(
    "search method",
    {
        "one-shot": "compress.search.methods:ONE_SHOT",
        "milp": "compress.search.methods:MILP",
        "greedy": "compress.search.methods:GREEDY",
        "dfbnb": "compress.search.methods:DFBNB",
        "tas": "compress.search.methods:TAS",
        "uniform": "compress.search.methods:UNIFORM",
        "unstructured": "compress.search.methods:UNSTRUCTURED",
    },
    error=PlanError,
)
"""Search methods by the name that ``--search`` takes."""
