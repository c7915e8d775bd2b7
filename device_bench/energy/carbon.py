"""CO2 emissions of a country's grid per kWh, from codecarbon's tables, without a network."""

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
    """Emissions of the electricity of a country.

    Attributes:
        grams_per_kwh: CO2 equivalent, g/kWh; null with a reason.
        country: ISO 3166 alpha-3 code; null if none was given.
        reason: why the figure is null.
    """

    grams_per_kwh: float | None
    country: str | None
    reason: str | None = None


def find_grid(country: str | None, *, importer: Importer = import_module) -> Grid:
    """Returns the mean emissions of a country's grid in the newest year of codecarbon.

    Args:
        country: ISO 3166 alpha-3 code, such as ``DEU``, in upper or lower case.
        importer: imports codecarbon's modules.

    Raises:
        MeasurementError: there is no such code, or codecarbon has no figure for it.
    """
    if country is None:
        return Grid(None, None, NO_COUNTRY)
    code = country.strip().upper()
    expected = "an ISO 3166 alpha-3 code such as DEU, FRA or USA"
    if not re.fullmatch("[A-Z]{3}", code):
        raise MeasurementError("That is no country", expected=expected, got=repr(country))
    try:
        with quiet_codecarbon():
            known = importer("codecarbon.input").DataSource().get_global_energy_mix_data()
            grams = known.get(code, {}).get("carbon_intensity")
    except ImportError:
        return Grid(None, code, str(MissingExtraError("codecarbon", "energy")))
    except Exception as error:  # a changed library may raise anything
        return Grid(None, code, f"codecarbon's table of grids cannot be read: {type(error).__name__}: {error}.")
    if grams is None:
        raise MeasurementError("codecarbon does not know the grid of that country", expected=expected, got=code)
    return Grid(float(grams), code)


def with_grid(energy: Energy, grid: Grid) -> Energy:
    """Returns ``energy`` with the emissions of ``grid``; for a board without codecarbon, its host does this."""
    return replace(energy, grams_per_kwh=grid.grams_per_kwh, country=grid.country, carbon_reason=grid.reason)


@contextmanager
def quiet_codecarbon() -> Iterator[None]:
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
