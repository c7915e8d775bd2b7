"""Reads the weights of checkpoint files from many training tools, without running code in them."""

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
"""Suffixes of readable files; ``.pth.tar`` is a case of ``.tar``."""

VIT_NAMES = (
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "blocks.0.norm1.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.attn.proj.weight",
    "blocks.0.mlp.fc1.weight",
    "blocks.0.mlp.fc2.weight",
)
"""Weights that every timm Vision Transformer has; a prefix before them is recognised by these names."""

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
_CONTAINERS = (
    *_AVERAGED,
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"),
    *("backbone", "encoder"),
)
"""Names under which weights are saved, in order of preference: averages over steps come first, as in timm."""

_WRAPPERS = {"module", "_orig_mod", "model", "net", "network", "backbone", "encoder", "vit", "visual", "base_model"}
"""Parts of a prefix that do not tell networks from each other."""

_CLASSIFIERS = ("head", "classifier", "fc", "cls_head", "linear")
_DEEPEST = 6


class _Inert:
    """Replaces an object that is no weight: accepts all arguments and does nothing."""

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
"""Classes that training scripts save next to weights. ``_Inert`` replaces each, so that no instance is made."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and the other content of the file.

    Attributes:
        path: path of the file.
        weights: tensors by name, without the prefix.
        prefix: prefix of every name, such as ``module.model.``; empty where there was none.
        container: entry of the file that held the weights, such as ``state_dict``; empty for the file itself.
        passed_over: entries of the file with other sets of weights.
        outside: tensors in the container that do not have the prefix.
        others: entries that are no tensors, such as ``epoch``.
        arch: the architecture that the file names; empty where it names none.
        classifier: name of a classifier next to the backbone that was taken along; empty where there was none.
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


def open_checkpoint(
    path: Path, names: Collection[str] = VIT_NAMES, content: dict[Any, Any] | None = None
) -> Checkpoint:
    """Reads a checkpoint and finds the weights in it.

    Args:
        path: a file with one of ``SUFFIXES``.
        names: names of some weights of the network, by which a prefix is recognised.
        content: what the file holds, where it was read before.

    Raises:
        ModelError: the file is missing, damaged, or of another kind; holds no weights or several sets of them; or
            holds objects that are not known to be harmless.
    """
    content = read_tensors(path) if content is None else content
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    arch = content.get("arch")
    trail: tuple[str, ...] = ()
    passed_over: list[str] = []
    while (step := _next_step(content, path, trail)) is not None:
        inner, others_here = step
        passed_over += [".".join((*trail, name)) for name in others_here]
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
    """Adds a linear classifier that is next to the backbone, such as ``fc``, to the weights if there is exactly one."""
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
        what: owner of the weights, to begin the error text with.
        weights: tensors by name.

    Raises:
        ModelError: a weight is NaN or infinite; the error names it.
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


def read_tensors(path: Path) -> dict[Any, Any]:
    """Reads everything that a checkpoint file holds, without running code in it.

    Raises:
        ModelError: the file is missing, damaged, of another kind, or holds objects that are not known to be harmless.
    """
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
    """Returns whether a dict, or a dict inside it, has a tensor whose name ends in ``weight``."""
    if not isinstance(content, dict) or deep == 0:
        return False
    return any(_is_weight(name, value) or _holds_weights(value, deep - 1) for name, value in content.items())


def _next_step(content: dict[Any, Any], path: Path, trail: tuple[str, ...]) -> tuple[Any, list[str]] | None:
    """Returns the entry of ``content`` to read and the others with weights; None if ``content`` has the weights."""
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
    """Returns the prefix of the names of the network's weights."""
    counts = Counter(_prefixes(found, names))
    most = max(counts.values(), default=0)
    rivals = [prefix for prefix, count in counts.items() if 2 * count > most]
    if not rivals:
        return shared_wrappers(found)
    plain = [prefix for prefix in rivals if set(prefix.split(".")[:-1]) <= _WRAPPERS]
    chosen = "" if "" in rivals else plain[0] if len(plain) == 1 else rivals[0] if len(rivals) == 1 else None
    if chosen is None:
        example = f"{{k.removeprefix({rivals[0]!r}): v for k, v in weights.items() if k.startswith({rivals[0]!r})}}"
        raise _ambiguous(path, rivals, f"torch.save({example}, 'weights.pth')")
    return chosen.removesuffix("visual.trunk.")  # timm converts OpenCLIP's names


def _prefixes(found: Mapping[str, object], names: Collection[str]) -> Iterator[str]:
    for key in found:
        for name in names:
            if key == name or key.endswith(f".{name}"):
                yield key[: len(key) - len(name)]


def shared_wrappers(found: Mapping[str, object]) -> str:
    """Returns the training wrappers that are a prefix of every name, for a network with other names."""
    prefix = ""
    while True:
        longer = [f"{prefix}{part}." for part in ("module", "_orig_mod")]
        wrapped = [text for text in longer if all(key.startswith(text) for key in found)]
        if not wrapped:
            return prefix
        prefix = wrapped[0]


def _ambiguous(path: Path, places: list[str], example: str) -> ModelError:
    return ModelError(
        f"The checkpoint {path} holds several networks, and which one to read is not clear",
        expected="the weights of one",
        got=short_list(places),
        fix=f"Save the one you mean alone, such as: {example}",
    )


def short_list(names: Sequence[str], most: int = 4) -> str:
    """Joins the first ``most`` names with commas, and adds how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
