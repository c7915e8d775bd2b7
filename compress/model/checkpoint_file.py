"""Reads the weights in a checkpoint file, whoever saved it and however it is wrapped, without running its code."""

from __future__ import annotations

import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from runtime import ModelError

SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".pt", ".tar", ".ckpt", ".bin")
"""Files that are read; ``.pth.tar`` is one of ``.tar``."""

VIT_NAMES = (
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "blocks.0.norm1.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.attn.proj.weight",
    "blocks.0.mlp.fc1.weight",
    "blocks.0.mlp.fc2.weight",
)
"""Weights that every Vision Transformer of timm's has, by which a prefix is found."""

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
_CONTAINERS = (
    *_AVERAGED,
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"),
    *("backbone", "encoder"),
)
"""Names under which weights are saved, in order of choice: those averaged over steps come first, as timm has it."""

_WRAPPERS = {"module", "_orig_mod", "model", "net", "network", "backbone", "encoder", "vit", "visual", "base_model"}
"""Parts of a prefix that say nothing of whose weights they are."""

_CLASSIFIERS = ("head", "classifier", "fc", "cls_head", "linear")
_DEEPEST = 6


class _Inert:
    """Stands in for an object that is no weight: takes whatever it is given and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _inert_dict(*_: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


_STOOD_IN_FOR = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"{home}.{kind}" for home in ("pathlib", "pathlib._local") for kind in ("PosixPath", "WindowsPath", "Path")),
    *(f"datetime.{kind}" for kind in ("datetime", "date", "timedelta")),
    *(f"{home}.{kind}" for home in ("builtins", "__builtin__") for kind in ("dict", "list", "int", "float", "str")),
    "torch.torch_version.TorchVersion",
)
"""What training scripts save beside weights. None of it is made: ``_Inert`` takes the place of each."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and what was around them.

    Attributes:
        path: path of the file.
        weights: by name, without the prefix.
        prefix: what stood before every name, such as ``module.model.``; empty where nothing did.
        container: where in the file they were, such as ``state_dict``; empty where they were the file itself.
        passed_over: names in the file of other weights that could have been meant.
        outside: tensors beside the weights that do not have the prefix.
        others: entries that are no tensors, such as ``epoch``.
        arch: the architecture that the file says it is of; empty where it says none.
        classifier: what the classifier was called that stood beside a backbone and was taken; empty where none was.
    """

    path: Path
    weights: Mapping[str, torch.Tensor]
    prefix: str = ""
    container: str = ""
    passed_over: tuple[str, ...] = ()
    outside: Mapping[str, torch.Tensor] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    arch: str = ""
    classifier: str = ""


def open_checkpoint(path: Path, names: Collection[str] = VIT_NAMES) -> Checkpoint:
    """Reads a checkpoint and takes its weights out of whatever is around them.

    Args:
        path: a file of one of ``SUFFIXES``.
        names: names of weights that the network has, by which a prefix is recognised.

    Raises:
        ModelError: the file is missing, damaged, of another kind, holds no weights, holds objects that are not known
            to be harmless, or it cannot be told which of its weights are meant.
    """
    content = _load(path)
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    arch = content.get("arch")
    trail: tuple[str, ...] = ()
    passed_over: list[str] = []
    while (step := _next_step(content, path, trail)) is not None:
        inner, beside = step
        passed_over += [".".join((*trail, name)) for name in beside]
        content, trail = content[inner], (*trail, inner)
    found = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not any(_is_weight(name, value) for name, value in found.items()):
        raise ModelError(
            f"The checkpoint {path} holds something else than weights",
            expected="a dict of tensors, alone or under a name such as state_dict",
            got=short_list([str(key) for key in content]) or "nothing",
        )
    others += [str(key) for key in content if trail and str(key) not in found]
    prefix = _prefix(found, names, path)
    inside = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    outside = {name: value for name, value in found.items() if not name.startswith(prefix)}
    known = (*trail, *passed_over)
    return Checkpoint(
        path=path,
        weights=inside,
        prefix=prefix,
        container=".".join(trail),
        passed_over=tuple(passed_over),
        outside=outside,
        others=tuple(name for name in dict.fromkeys(others) if name not in known),
        arch=arch if isinstance(arch, str) else "",
    )


def with_classifier(checkpoint: Checkpoint) -> Checkpoint:
    """Takes a linear classifier along that stands beside a backbone, such as ``fc``, where there is just one."""
    width = checkpoint.weights.get("patch_embed.proj.weight")
    if width is None or any(name.startswith("head.") for name in checkpoint.weights):
        return checkpoint
    outside = dict(checkpoint.outside)
    found = []
    for name, value in outside.items():
        owner, _, last = name.rpartition(".")
        bias = outside.get(f"{owner}.bias")
        if last != "weight" or owner.rpartition(".")[2] not in _CLASSIFIERS or bias is None:
            continue
        if value.ndim == 2 and value.shape[1] == width.shape[0] and bias.shape == value.shape[:1]:
            found.append(owner)
    if len(found) != 1:
        return checkpoint
    head = {f"head.{part}": outside.pop(f"{found[0]}.{part}") for part in ("weight", "bias")}
    return replace(checkpoint, weights={**checkpoint.weights, **head}, outside=outside, classifier=found[0])


def check_finite_weights(what: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuses weights that are NaN or infinite in 32 bits.

    Args:
        what: whose they are, to begin the error with.
        weights: by name.

    Raises:
        ModelError: some are, by name.
    """
    wrong = [name for name, value in weights.items() if not torch.isfinite(value.detach().float()).all()]
    if wrong:
        value = weights[wrong[0]].detach().float()
        kind = "NaN" if torch.isnan(value).any() else "infinite"
        count = int((~torch.isfinite(value)).sum())
        more = f", and so have {len(wrong) - 1} more: {short_list(wrong[1:])}" if len(wrong) > 1 else ""
        raise ModelError(
            f"{what} has weights that are no numbers: '{wrong[0]}'{more}",
            expected="finite numbers",
            got=f"{count} of {value.numel()} values of '{wrong[0]}' NaN or infinite, {kind} among them",
            fix="Its training diverged, or the file is damaged: take an earlier checkpoint",
        )


def _load(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise ModelError(f"The checkpoint {path} does not exist")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ModelError(f"The checkpoint {path} is of another kind", expected=" ".join(SUFFIXES))
    if suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"The checkpoint {path} cannot be read", got=error) from error
    allowed: list[Any] = [(_Inert, name) for name in _STOOD_IN_FOR]
    allowed.append((_inert_dict, "collections.defaultdict"))
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, unpickling and torch errors have no common base
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ModelError(
            f"The checkpoint {path} holds something else than weights", expected="a dict of tensors", got=f"a {kind}"
        )
    return content


def _unreadable(path: Path, error: Exception) -> ModelError:
    text = str(error)
    foreign = re.search(r"GLOBAL ([\w.]+)", text)
    if foreign and "TorchScript" not in text:
        return ModelError(
            f"The checkpoint {path} cannot be read as plain weights: it holds an object of '{foreign[1]}'",
            expected="tensors, numbers and text",
            got="an object that only its own code could read, and code of a checkpoint is not run",
            fix="Where it was made, save model.state_dict() alone, best as .safetensors",
        )
    reason = text.splitlines()[0] if text else type(error).__name__
    return ModelError(
        f"The checkpoint {path} cannot be read as plain weights",
        got=reason[:200],
        fix="Save model.state_dict() alone, best as .safetensors",
    )


def _is_weight(name: object, value: object) -> bool:
    return isinstance(value, torch.Tensor) and str(name).rpartition(".")[2] == "weight"


def _holds_weights(content: object, deep: int = _DEEPEST) -> bool:
    """Whether a dict, or a dict in it, has a tensor that is called a weight."""
    if not isinstance(content, dict) or deep == 0:
        return False
    return any(_is_weight(name, value) or _holds_weights(value, deep - 1) for name, value in content.items())


def _next_step(content: dict[Any, Any], path: Path, trail: tuple[str, ...]) -> tuple[Any, list[str]] | None:
    """Returns the entry of ``content`` that the weights are in, and the others that also hold some; None at the end."""
    inner = [key for key, value in content.items() if _holds_weights(value, _DEEPEST - len(trail))]
    if not inner or any(_is_weight(name, value) for name, value in content.items()):
        return None
    known = [key for key in _CONTAINERS if key in inner]
    if not known and len(inner) > 1:
        keys = [".".join((*trail, str(key))) for key in inner]
        raise _ambiguous(path, keys, f"torch.save(torch.load(FILE)[{inner[0]!r}], 'weights.pth')")
    chosen = (known or inner)[0]
    return chosen, [str(key) for key in inner if key != chosen]


def _prefix(found: Mapping[str, object], names: Collection[str], path: Path) -> str:
    """Returns what stands before the names of the network's weights."""
    counts = Counter(_prefixes(found, names))
    most = max(counts.values(), default=0)
    rivals = [prefix for prefix, count in counts.items() if 2 * count > most]
    if not rivals:
        return _shared_wrappers(found)
    plain = [prefix for prefix in rivals if set(prefix.split(".")[:-1]) <= _WRAPPERS]
    chosen = "" if "" in rivals else plain[0] if len(plain) == 1 else rivals[0] if len(rivals) == 1 else None
    if chosen is None:
        example = f"{{k.removeprefix({rivals[0]!r}): v for k, v in weights.items() if k.startswith({rivals[0]!r})}}"
        raise _ambiguous(path, rivals, f"torch.save({example}, 'weights.pth')")
    return chosen.removesuffix("visual.trunk.")  # timm knows what to do with OpenCLIP's names


def _prefixes(found: Mapping[str, object], names: Collection[str]) -> Iterator[str]:
    for key in found:
        for name in names:
            if key == name or key.endswith(f".{name}"):
                yield key[: len(key) - len(name)]


def _shared_wrappers(found: Mapping[str, object]) -> str:
    """Returns the wrappers of training that stand before every name of a network that is not known."""
    prefix = ""
    while True:
        longer = [f"{prefix}{part}." for part in ("module", "_orig_mod")]
        wrapped = [text for text in longer if all(key.startswith(text) for key in found)]
        if not wrapped:
            return prefix
        prefix = wrapped[0]


def _ambiguous(path: Path, places: list[str], example: str) -> ModelError:
    return ModelError(
        f"The checkpoint {path} holds several networks, and it is not said which is meant",
        expected="the weights of one",
        got=short_list(places),
        fix=f"Save the one you mean alone, such as: {example}",
    )


def short_list(names: Sequence[str], most: int = 4) -> str:
    """Returns the first ``most`` names with commas between, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
