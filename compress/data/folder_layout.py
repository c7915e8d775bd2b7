"""Recognises the splits and classes of a folder of pictures by the names of its folders."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from runtime import DataError

Role = Literal["train", "held_out", "test"]
Parts = tuple[str, ...]

ROLES: Mapping[str, Role] = {
    **{name: "train" for name in ("train", "training")},
    **{name: "held_out" for name in ("val", "valid", "validation")},
    **{name: "test" for name in ("test", "testing")},
}
"""Split of a folder by its name, in upper or lower case."""


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
        role: purpose of its pictures.
        folder: name of its folder; empty where the whole data is split by seed.
    """

    role: Role
    folder: str

    @property
    def depth(self) -> int:
        """Number of folders above a picture's class folder."""
        return 1 if self.folder else 0


@dataclass(frozen=True)
class Layout:
    """The splits and classes of a folder.

    Attributes:
        splits: the splits, train first; one without a folder where the pictures are not split yet.
        classes: names of the class folders, sorted as text.
        left_out: number of pictures that belong to no class, by reason.
    """

    splits: tuple[Split, ...]
    classes: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Folder:
    """Content of an outermost folder: pictures in it, pictures below, and names of folders in it."""

    direct: int = 0
    below: int = 0
    inside: set[str] = field(default_factory=set)

    @property
    def pictures(self) -> int:
        return self.direct + self.below


def recognise(pictures: Sequence[Parts], folders: Collection[Parts], where: str) -> Layout:
    """Tells splits from classes.

    Folders named as in ``ROLES`` are splits if they hold class folders, and classes if they hold pictures. Ambiguous
    folders are refused.

    Args:
        pictures: names from the outermost folder down to each picture.
        folders: names from the outermost folder down to each folder.
        where: path of the data, for the error text.

    Raises:
        DataError: there are no classes, a split is missing, or the folders are ambiguous.
    """
    top = _outermost(pictures, folders)
    if not top:
        raise DataError(f"{where} holds no classes", expected="one folder of pictures per class")
    found = _splits(top, where)
    if not found:
        _check_classes_outside(top, where)
        stray = sum(1 for parts in pictures if len(parts) == 1)
        return Layout((Split("train", ""),), tuple(sorted(top)), _counted({"in no class folder": stray}))
    return _with_splits(found, top, pictures, where)


def _outermost(pictures: Iterable[Parts], folders: Iterable[Parts]) -> dict[str, _Folder]:
    top: dict[str, _Folder] = {}
    for parts in sorted(folders, key=len):
        own = top.setdefault(parts[0], _Folder())
        if len(parts) == 2:
            own.inside.add(parts[1])
    for parts in pictures:
        if len(parts) > 1:
            own = top[parts[0]]
            own.direct += len(parts) == 2
            own.below += len(parts) > 2
    return top


def _splits(top: Mapping[str, _Folder], where: str) -> tuple[Split, ...]:
    """Returns the splits; empty where the outermost folders are classes."""
    named = {name: role for name in sorted(top) if (role := ROLES.get(name.lower()))}
    classed = {name: role for name, role in named.items() if top[name].inside}
    flat = [name for name in named if top[name].direct and not top[name].inside]
    others = [name for name, own in top.items() if name not in named and own.pictures]
    roles = set(classed.values())
    if "train" in roles and len(roles) > 1:
        return _unambiguous(classed, where)
    if not classed:
        _check_flat(flat, named, where)
        return ()
    return _half_split(classed, named, top, others, where)


def _unambiguous(classed: Mapping[str, Role], where: str) -> tuple[Split, ...]:
    for role in ("train", "held_out", "test"):
        twice = [name for name, own in classed.items() if own == role]
        if len(twice) > 1:
            raise DataError(
                f"{where} has {_listed(twice)}, and one of them alone can be used",
                fix="Move the other pictures in, or that folder away",
            )
    splits = [Split(role, name) for name, role in classed.items()]
    # without a test split the validation pictures are the test split
    if "test" not in classed.values():
        splits = [Split("test" if own.role == "held_out" else own.role, own.folder) for own in splits]
    order = ("train", "held_out", "test")
    return tuple(sorted(splits, key=lambda own: order.index(own.role)))


def _check_flat(flat: Sequence[str], named: Mapping[str, Role], where: str) -> None:
    """Refuses splits without class folders: one folder with a split's name and pictures may be a class, two are not."""
    if len({named[name] for name in flat}) > 1:
        raise DataError(
            f"{_listed(flat)} in {where} hold pictures directly",
            expected="one folder of pictures per class in each of them",
            fix="Make class folders there, or, where these are classes, rename them",
        )


def _half_split(
    classed: Mapping[str, Role],
    named: Mapping[str, Role],
    top: Mapping[str, _Folder],
    others: Sequence[str],
    where: str,
) -> tuple[Split, ...]:
    """Decides where some folders look like splits, but train and test are not both there."""
    bare = next((name for name in named if name not in classed and top[name].direct), None)
    if not others and bare is not None:
        raise DataError(
            f"{where} has class folders in {_listed(classed)}, and pictures without class folders in {bare}/",
            expected="one folder of pictures per class in each split",
        )
    if others and all(top[name].direct for name in classed):
        return ()
    if others:
        raise DataError(
            f"{where} can be read in two ways: {_listed(classed)} may be a split, or a class like {_few(others)}",
            expected="train/ and val/ or test/ with the class folders inside, or class folders alone",
            fix="Move the class folders into train/, or rename the class",
        )
    first = next(iter(classed))
    lacks = "no val/ or test/" if "train" in classed.values() else "no train/"
    raise DataError(
        f"{where} has {_listed(classed)} but {lacks}",
        fix=f"Add it, or give {where}/{first} alone, which is then split by seed",
    )


def _check_classes_outside(top: Mapping[str, _Folder], where: str) -> None:
    """Refuses splits inside classes, and one folder around all data."""
    for name, own in sorted(top.items()):
        roles = {ROLES[inner.lower()] for inner in own.inside if inner.lower() in ROLES}
        if len(roles) < 2 or own.direct:
            continue
        inner = _listed(sorted(inner for inner in own.inside if inner.lower() in ROLES))
        if len(top) == 1:
            raise DataError(f"{where} holds {name}/ alone, and that holds {inner}", fix=f"Give {where}/{name}")
        raise DataError(
            f"The class folder {name}/ of {where} holds {inner}, and all of it would be one class",
            expected="splits outside and classes inside, such as train/CLASS and test/CLASS",
        )
    if len(top) == 1:
        ((name, own),) = top.items()
        if len(own.inside) > 1 and not own.direct:
            raise DataError(
                f"{where} holds one folder alone, {name}/, with {len(own.inside)} folders in it",
                expected="one folder of pictures per class",
                fix=f"Give {where}/{name}, if its folders are the classes",
            )


def _with_splits(
    splits: tuple[Split, ...], top: Mapping[str, _Folder], pictures: Sequence[Parts], where: str
) -> Layout:
    names = {own.folder for own in splits}
    classes = tuple(sorted(top[splits[0].folder].inside))
    for split in splits[1:]:
        extra = sorted(top[split.folder].inside - set(classes))
        if extra:
            alike = {_folded(name): name for name in classes}
            near = [f"{name} is spelt {alike[_folded(name)]} there" for name in extra if _folded(name) in alike]
            raise DataError(
                f"{where}/{split.folder} has classes that {splits[0].folder}/ has not",
                got=_few(extra),
                fix=near[0] if near else None,
            )
    stray = sum(1 for parts in pictures if len(parts) == 1 or (len(parts) == 2 and parts[0] in names))
    left_out = {"in no class folder": stray}
    for name, own in top.items():
        if name not in names:
            left_out[f"in {name}/, outside the splits"] = own.pictures
    return Layout(splits, classes, _counted(left_out))


def _counted(left_out: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in left_out.items() if count}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _listed(names: Iterable[str]) -> str:
    shown = [f"{name}/" for name in names]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"
