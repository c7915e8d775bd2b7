"""The errors of all rooms, each with the fault, the expected and the given value, and a fix."""

from __future__ import annotations


class PocketVitError(Exception):
    """A fault that the user can fix, described in one paragraph.

    Args:
        what: the fault, with the name of the thing.
        expected: the right value.
        got: the given value.
        fix: the action that helps.
    """

    exit_code = 2

    def __init__(self, what: str, *, expected: object = None, got: object = None, fix: str | None = None) -> None:
        parts = [what.rstrip(".") + "."]
        if expected is not None:
            parts.append(f"Expected {expected}.")
        if got is not None:
            parts.append(f"Got {got}.")
        if fix is not None:
            parts.append(fix if fix.endswith("?") else fix.rstrip(".") + ".")
        super().__init__(" ".join(parts))


class PocketVitWarning(UserWarning):
    """A warning that does not stop the work; the command line shows it on stderr."""


class PlanError(PocketVitError, ValueError):
    """A shape plan, a set of kept indices or a budget that cannot be."""


class ModelError(PocketVitError, ValueError):
    """A model or checkpoint that is unknown, unsupported or does not fit."""


class DataError(PocketVitError, ValueError):
    """A dataset or image that is unknown, empty or cannot be read."""


class ArtifactError(PocketVitError):
    """An exported file or persisted document that is missing, damaged or of another version."""


class UnsupportedTargetError(PocketVitError, ValueError):
    """A target or engine this machine cannot serve."""


class ParityError(PocketVitError):
    """An exported file whose outputs are not those of the model it came from."""

    exit_code = 1


class MeasurementError(PocketVitError):
    """A measurement that cannot be trusted or read."""


class RunFolderError(PocketVitError):
    """A run folder that exists already, is in use, or was made with other settings."""


class StorageError(PocketVitError, OSError):
    """A file that cannot be written: no space, no permission."""


class MissingExtraError(PocketVitError, ImportError):
    """A package that belongs to an extra which is not installed.

    Args:
        package: the package's name.
        extra: the extra of this project that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"This needs the package '{package}', which is not installed",
            fix=f"Run: pip install 'pocketvit[{extra}]'",
        )
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.package, self.extra)
