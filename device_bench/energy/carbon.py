"""What the grid of a country emits for a kWh, from the tables of codecarbon, without a network."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module

from device_bench.documents.figures import Energy
from runtime import MeasurementError, MissingExtraError

from .source import Importer

NO_COUNTRY = "No country was given: --country takes an ISO 3166 alpha-3 code such as DEU."


@dataclass(frozen=True)
class Grid:
    """The electricity of a country.

    Attributes:
        grams_per_kwh: CO2 equivalent, g/kWh; null with a reason.
        country: ISO 3166 alpha-3; null where none was given.
        reason: why the figure is null.
    """

    grams_per_kwh: float | None
    country: str | None
    reason: str | None = None


def find_grid(country: str | None, *, importer: Importer = import_module) -> Grid:
    """Returns what the grid of ``country`` emits, a mean over the newest year that codecarbon has.

    Args:
        country: ISO 3166 alpha-3, such as ``DEU``; in capitals or not.
        importer: imports codecarbon's modules.

    Raises:
        MeasurementError: ``country`` is no such code, or codecarbon has no figure of it.
    """
    if country is None:
        return Grid(None, None, NO_COUNTRY)
    code = country.strip().upper()
    expected = "an ISO 3166 alpha-3 code such as DEU, FRA or USA"
    if not re.fullmatch("[A-Z]{3}", code):
        raise MeasurementError("That is no country", expected=expected, got=repr(country))
    try:
        with quiet():
            known = importer("codecarbon.input").DataSource().get_global_energy_mix_data()
            grams = known.get(code, {}).get("carbon_intensity")
    except ImportError:
        return Grid(None, code, str(MissingExtraError("codecarbon", "energy")))
    except Exception as error:  # a library that changed raises what it likes
        return Grid(None, code, f"codecarbon's table of grids cannot be read: {type(error).__name__}: {error}.")
    if grams is None:
        raise MeasurementError("codecarbon does not know the grid of that country", expected=expected, got=code)
    return Grid(float(grams), code)


def with_grid(energy: Energy, grid: Grid) -> Energy:
    """Returns ``energy`` with the emissions of ``grid``: a board without codecarbon leaves that to its host."""
    return replace(energy, grams_per_kwh=grid.grams_per_kwh, country=grid.country, carbon_reason=grid.reason)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps codecarbon from writing to stderr, and from warning."""
    logger = logging.getLogger("codecarbon")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
