"""A second device that needs no hardware: its values are on the CPU, out of reach of whatever mixes the two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("mps", 0)
"""Its name: of a kind of device for which torch asks no driver before it is given a tensor."""

_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Distant(torch.Tensor):
    """A tensor that is not on the CPU: to numpy, or to an operation with one that is, it says no."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> Distant:
        shape = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device="meta")
        made: Distant = torch.Tensor._make_subclass(cls, shape, False)
        made.values = values
        return made

    @property
    def device(self) -> torch.device:
        return ELSEWHERE

    @property
    def is_meta(self) -> bool:
        return False

    def __repr__(self, **_: Any) -> str:
        return f"Distant({tuple(self.shape)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = Distant(self.values.clone())
        return nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(operation, args, kwargs or {})


class _Machine(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(operation, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Yields a device that tensors can be moved to within the block."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Machine():
            yield ELSEWHERE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _computed(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes an operation on the values; tensors of both places may meet in a copy alone, or one be a scalar."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    distant = [leaf for leaf in given if isinstance(leaf, Distant)]
    near = [leaf for leaf in given if not isinstance(leaf, Distant) and leaf.ndim]
    if distant and near and operation not in _COPIES:
        raise RuntimeError(f"Expected all tensors of {operation} to be on the same device")
    asked = kwargs.get("device")
    bare = tree_map(lambda leaf: leaf.values if isinstance(leaf, Distant) else leaf, (args, kwargs))
    made = operation(*bare[0], **{name: value for name, value in bare[1].items() if name != "device"})
    if operation._schema.is_mutable:
        return args[0] if given and made is not None else made
    # to a backward pass, which sees no Python, a distant tensor is on the device "meta"
    places = (ELSEWHERE, torch.device("meta")) if distant else (ELSEWHERE,)
    there = torch.device(asked) in places if asked is not None else bool(distant)
    return tree_map(lambda leaf: Distant(leaf) if isinstance(leaf, torch.Tensor) else leaf, made) if there else made
