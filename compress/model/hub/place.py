"""Where a model lies: a folder of this machine, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime import MissingExtraError, ModelError

HUB_FORMS = ("hf:", "hf_hub:", "hf-hub:")
"""What the name of a repository begins with; the last two are timm's."""

_REPOSITORY = re.compile(r"(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})(@(?P<revision>[\w.][\w./-]{0,199}))?", re.ASCII)

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Place:
    """A folder, or a repository whose files are fetched when they are asked for.

    Attributes:
        folder: the folder; None for a repository.
        repo: ``OWNER/NAME`` of a repository; empty for a folder.
        revision: commit of a repository.
    """

    folder: Path | None
    repo: str = ""
    revision: str = ""

    @property
    def name(self) -> str:
        """Name for texts: ``OWNER/NAME@COMMIT``, or the path of the folder."""
        return f"{self.repo}@{self.revision}" if self.repo else str(self.folder)

    def file(self, name: str, *, helpful: bool = False) -> Path | None:
        """Returns the path of a file; None where there is none.

        Args:
            name: a plain file name.
            helpful: whether the file only adds facts, so that it counts as absent where it cannot be fetched.

        Raises:
            ModelError: the file cannot be fetched.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        try:
            return _fetch(self.repo, self.revision, name)
        except ModelError:
            if helpful:
                return None
            raise


def is_place(name: str) -> bool:
    """Returns whether the name of a model names a repository or a folder, and not an architecture of timm."""
    return name.startswith((*HUB_FORMS, "~", ".")) or "/" in name or "\\" in name or Path(name).is_dir()


def short_name(name: str) -> str:
    """Returns a name without its form, owner, folder and revision, such as ``vit-base`` of ``hf:google/vit-base@main``.

    >>> short_name("hf:google/vit-base-patch16-224@refs/pr/3"), short_name("models/mine/"), short_name("vit_tiny")
    ('vit-base-patch16-224', 'mine', 'vit_tiny')
    """
    if name.startswith(HUB_FORMS):
        name = name.partition("@")[0]
    return re.split(r"[/\\:]", name.rstrip("/\\"))[-1].lstrip(".~") or "model"


def find_place(name: str) -> Place:
    """Returns the place that a name means.

    Args:
        name: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION`` (``hf_hub:`` and ``hf-hub:`` likewise), or a folder.

    Raises:
        ModelError: the name is of another form, there is no such folder, or the repository cannot be reached.
    """
    if not name.startswith(HUB_FORMS):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            hint = f", or hf:{name} for a repository of the Hugging Face Hub" if _REPOSITORY.fullmatch(name) else ""
            fix = f"Give a folder with config.json and weights, or the name of a timm architecture{hint}"
            raise ModelError(f"There is no model folder '{name}'", fix=fix)
        return Place(folder)
    found = _REPOSITORY.fullmatch(name.partition(":")[2])
    if found is None or ".." in name:
        raise ModelError(f"'{name}' names no repository", expected="hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    config = _fetch(found["repo"], found["revision"] or "main", "config.json")
    if config is None:
        raise ModelError(
            f"The repository {found['repo']} has no config.json", fix="Give the repository of a vision transformer"
        )
    # huggingface_hub keeps every commit's files in a folder that has its name
    return Place(None, found["repo"], config.parent.name)


def _fetch(repo: str, revision: str, name: str) -> Path | None:
    """Returns the path of a repository's file in the cache of ``huggingface_hub``; None where it has no such file."""
    try:
        from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache
    except ImportError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "compress") from None
    known: Any = try_to_load_from_cache(repo, name, revision=revision) if _COMMIT.fullmatch(revision) else None
    if known is not None:  # a commit's files never change; anything but a path says that there is none
        return Path(known) if isinstance(known, str) else None
    try:
        with _quiet():
            return Path(hf_hub_download(repo, name, revision=revision))
    except errors.LocalEntryNotFoundError as error:  # no network, and not in the cache
        raise _unreachable(repo, name, error) from error
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError as error:
        raise ModelError(
            f"The repository {repo} is gated",
            fix="Accept its licence on its page, and give a token (HF_TOKEN, or `hf auth login`)",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"There is no repository {repo}, or it is private",
            fix="Check the name; for a private one give a token (HF_TOKEN, or `hf auth login`)",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"The repository {repo} has no revision '{revision}'") from error
    except Exception as error:  # whatever the network, the disk and the server raise
        raise _unreachable(repo, name, error) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's remarks on every attempt from the terminal; the last error says what they do."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _unreachable(repo: str, name: str, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()
    return ModelError(
        f"'{name}' of the repository {repo} cannot be fetched",
        got=f"{type(error).__name__}: {reason[0][:200] if reason else ''}",
        fix="Go online without HF_HUB_OFFLINE, or give a folder that holds the model's files with --model FOLDER",
    )
