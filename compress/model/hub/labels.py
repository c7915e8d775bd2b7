"""The meaning of a head's outputs: names of exclusive classes, or something that no top-1 describes."""

from __future__ import annotations

import re

from runtime import MissingExtraError, ModelError

from .fields import Fields

try:
    from timm.data import ImageNetInfo, infer_imagenet_subset
except ImportError as error:
    raise MissingExtraError(error.name or "timm", "compress") from None

_PLACEHOLDER = re.compile(r"LABEL_\d+")


def class_names(config: Fields, outputs: int) -> tuple[str, ...] | None:
    """Returns the names of the classes in the order of the outputs; None where the config names none.

    Args:
        config: content of ``config.json``: ``id2label``, or timm's ``label_names``.
        outputs: number of outputs of the head.

    Raises:
        ModelError: the names are damaged, or are of another number of classes.
    """
    names = _listed(config)
    if names is None or all(_PLACEHOLDER.fullmatch(name) for name in names):
        return None
    if len(names) != outputs:
        raise ModelError(
            f"{config.where} names another number of classes than the head has outputs",
            expected=outputs,
            got=len(names),
        )
    return tuple(names)


def imagenet_names(outputs: int) -> tuple[str, ...] | None:
    """Returns the names of ImageNet's classes if a set of ImageNet has this many, as ``transformers`` guesses them.

    Args:
        outputs: number of outputs of the head.
    """
    subset = infer_imagenet_subset({"num_classes": outputs})
    return tuple(ImageNetInfo(subset).label_descriptions()) if subset else None


def _listed(config: Fields) -> list[str] | None:
    found = config.get("label_names")
    if found is None:
        found = config.inner("id2label").values
        try:
            keys = sorted(found, key=int)
            whole = [int(key) for key in keys]
        except ValueError:
            whole = [-1]
        if not found:
            return None
        if whole != list(range(len(found))):
            raise config.wrong("id2label", f"the keys 0 to {len(found) - 1}", sorted(found)[:4])
        found = [found[key] for key in keys]
    if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
        raise config.wrong("label_names" if config.get("label_names") else "id2label", "a text for each class", found)
    return found or None


def sigmoid_head(config: Fields) -> str | None:
    """Returns why the outputs are no exclusive classes; None where they are.

    Raises:
        ModelError: the field that states it is of another type.
    """
    kind = config.text("problem_type")
    if kind == "multi_label_classification":
        return "independent labels (problem_type multi_label_classification): several may be right at once"
    if kind == "regression":
        return "numbers, not classes (problem_type regression)"
    return None
