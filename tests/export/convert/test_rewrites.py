"""What is rewritten for converters computes what torch and timm do, and reaches the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter
from onnxruntime import InferenceSession
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.bottleneck_attn import PosEmbedRel as Positions
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.eca import CecaModule, EcaModule
from timm.layers.filter_response_norm import FilterResponseNormAct2d, FilterResponseNormTlu2d
from timm.layers.global_context import GlobalContext
from timm.layers.halo_attn import HaloAttn
from timm.layers.halo_attn import PosEmbedRel as HaloPositions
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.models.csatv2 import SpatialTransformerBlock
from timm.models.mobilevit import LinearSelfAttention
from torch import nn

from compress.model.whole.plain import PLAIN, plain_network
from export.convert.onnx import convert_to_onnx
from export.convert.rewrites import (
    REWRITES,
    RewrittenNetwork,
    convolve_by_a_product,
    fold_by_sums,
    interpolate_by_products,
    normalise_by_roots,
    one_hot_by_comparison,
    pool_by_equal_windows,
    unfold_by_slices,
)
from export.convert.tflite import convert_to_tflite

Module = Callable[[], nn.Module]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("size", "kernel", "dilation", "padding", "stride"),
    [
        ((8, 8), 3, 1, 1, 2),
        ((7, 9), 3, 1, 1, 2),
        ((6, 5), 2, 1, 0, 1),
        ((9, 7), 3, 2, 2, 1),
        ((8, 10), (2, 3), 1, 0, (2, 1)),
        ((8, 8), 2, 1, 0, 3),
        ((9, 9), 3, 1, (0, 1), 4),
    ],
)
def test_patches_are_added_as_by_fold(size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> None:
    shape = F.unfold(torch.zeros(2, 3, *size), kernel, dilation, padding, stride).shape
    patches = random(*shape)
    wanted = F.fold(patches, size, kernel, dilation, padding, stride)
    torch.testing.assert_close(fold_by_sums(patches, size, kernel, dilation, padding, stride), wanted)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [((7, 5), (16, 9)), ((14, 14), (5, 7)), ((3, 3), (3, 8)), ((31, 17), (8, 16))])
def test_matrices_resample_as_torch_does_with_antialiasing(mode: str, sides: Any) -> None:
    images = random(2, 3, *sides[0])
    wanted = F.interpolate(images, sides[1], mode=mode, antialias=True)
    torch.testing.assert_close(interpolate_by_products(images, sides[1], mode=mode, antialias=True), wanted)


@pytest.mark.parametrize(
    "options", [{"size": (3, 9)}, {"scale_factor": 2.0}, {"size": 8, "mode": "bilinear", "align_corners": True}]
)
def test_other_resampling_is_left_to_torch(options: dict[str, Any]) -> None:
    images = random(2, 3, 5, 6)
    assert torch.equal(interpolate_by_products(images, **options), F.interpolate(images, **options))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 6, 1), {}),
        ((4, 6, 1), {"bias": random(4), "padding": "same"}),
        ((4, 6, 1), {"stride": 2}),
        ((4, 6, 1), {"padding": 1}),
        ((4, 3, 1), {"groups": 2}),
        ((4, 6, 3), {"padding": (1,), "bias": random(4)}),
    ],
)
def test_kernels_of_one_element_are_products(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    tokens, weight = random(2, 6, 5), random(*shape)
    torch.testing.assert_close(convolve_by_a_product(tokens, weight, **options), F.conv1d(tokens, weight, **options))


def test_one_hot_vectors_are_those_of_torch() -> None:
    classes = torch.tensor([[0, 3], [2, 1]])
    for count in (4, 7, -1):
        got = one_hot_by_comparison(classes, count)
        assert got.dtype == torch.int64
        assert torch.equal(got, F.one_hot(classes, count))


@pytest.mark.parametrize(
    ("shape", "options"), [((6,), {}), ((6,), {"weight": random(6), "eps": 0.1}), ((5, 6), {"weight": random(5, 6)})]
)
def test_root_mean_squares_are_those_of_torch(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    values = random(2, 5, 6)
    torch.testing.assert_close(normalise_by_roots(values, shape, **options), F.rms_norm(values, shape, **options))


@pytest.mark.parametrize("size", [1, (2, 4), (6, None), (4, 3)])
def test_maxima_of_equal_windows_are_those_of_torch(size: Any) -> None:
    images = random(2, 3, 6, 8)
    assert torch.equal(pool_by_equal_windows(images, size), F.adaptive_max_pool2d(images, size))


@pytest.mark.parametrize(("dimension", "size", "step"), [(0, 2, 1), (1, 3, 2), (-1, 4, 3), (2, 6, 5)])
def test_windows_are_those_of_torch(dimension: int, size: int, step: int) -> None:
    values = random(3, 7, 8)
    assert torch.equal(unfold_by_slices(values, dimension, size, step), values.unfold(dimension, size, step))


class Several(nn.Module):
    """Uses every function that is rewritten."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(random(1, 3, 5, 5))
        self.mix = nn.Conv1d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images + F.interpolate(self.places, images.shape[2:], mode="bicubic", antialias=True)
        images = F.rms_norm(images, (8,))
        images = F.fold(F.unfold(images, 3, padding=1, stride=2), (8, 8), 3, padding=1, stride=2)
        images = images + F.adaptive_max_pool2d(images, (4, 1)).repeat_interleave(2, 2)
        images = images.unfold(2, 4, 2).mean(-1)
        tokens = self.mix(images.flatten(2))
        ranks = (tokens > 0).long()
        return (F.one_hot(ranks, 3).float() * tokens[..., None]).sum(-2).flatten(1)


def test_a_network_is_rewritten_and_its_file_answers_as_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = Several().eval(), random(3, 3, 8, 8)
    used: list[Any] = []
    for name, own in list(REWRITES.items()):
        monkeypatch.setitem(REWRITES, name, lambda *args, own=own, **more: [used.append(own), own(*args, **more)][1])
    with torch.no_grad():
        wanted = network(images)
        torch.testing.assert_close(RewrittenNetwork(network)(images), wanted)
    assert len(set(used)) == len(REWRITES)
    convert_to_onnx(network, (3, 8, 8), tmp_path / "model.onnx")
    (got,) = InferenceSession(tmp_path / "model.onnx").run(None, {"image": images.numpy()})
    assert np.abs(got - wanted.numpy()).max() < 1e-4


CASES: list[tuple[Module, tuple[tuple[int, ...], ...]]] = [
    (lambda: CondConv2d(6, 8, 1, num_experts=3), ((2, 6, 5, 5), (2, 3))),
    (lambda: CondConv2d(6, 6, 3, stride=2, padding="same", groups=6, num_experts=3), ((2, 6, 5, 6), (2, 3))),
    (lambda: CondConv2d(6, 8, 3, padding=1, bias=True, num_experts=3), ((2, 6, 5, 5), (2, 3))),
    (lambda: Positions((4, 5), 8, scale=0.5), ((6, 20, 8),)),
    (lambda: HaloPositions(4, 6, 8, scale=0.5), ((6, 3, 16, 8),)),
    (lambda: EcaModule(8), ((2, 8, 5, 4),)),
    (lambda: CecaModule(8), ((2, 8, 5, 4),)),
    (lambda: FilterResponseNormAct2d(8), ((2, 8, 5, 4),)),
    (lambda: FilterResponseNormTlu2d(8), ((2, 8, 5, 4),)),
    (lambda: GlobalContext(8, rd_ratio=0.5), ((2, 8, 5, 4),)),
    (lambda: GlobalContext(8, use_attn=False, fuse_add=True, fuse_scale=False), ((2, 8, 5, 4),)),
    (lambda: StdConv2d(6, 8, 3, stride=2), ((2, 6, 5, 6),)),
    (lambda: StdConv2dSame(6, 8, 3, stride=2, bias=True), ((2, 6, 5, 6),)),
    (lambda: ScaledStdConv2d(6, 8, 3, gamma=1.7, groups=2), ((2, 6, 5, 6),)),
    (lambda: ScaledStdConv2dSame(6, 8, 3, stride=2, gamma=1.7), ((2, 6, 5, 6),)),
    (SpatialTransformerBlock, ((3, 1, 7, 7),)),
    (lambda: LinearSelfAttention(8), ((2, 8, 4, 6),)),
]


@pytest.mark.parametrize(("build", "shapes"), CASES)
def test_modules_compute_what_those_of_timm_do(build: Module, shapes: tuple[tuple[int, ...], ...]) -> None:
    torch.manual_seed(0)
    own = build().eval()
    assert f"{type(own).__module__}.{type(own).__name__}" in PLAIN
    with torch.no_grad():
        for value in own.parameters():
            value.add_(0.3 * torch.randn(value.shape))
        given = [random(*shape) for shape in shapes]
        wanted = own(*given)
        names = list(own.state_dict())
        assert "forward" in vars(plain_network(own))
        torch.testing.assert_close(own(*given), wanted)
    assert list(own.state_dict()) == names


def test_every_class_that_is_rewritten_is_one_of_timm() -> None:
    built = {f"{type(own).__module__}.{type(own).__name__}" for own in (build() for build, _ in CASES)}
    assert built == set(PLAIN)


@pytest.mark.parametrize("side", [7, 8])
def test_zeros_around_pooled_images_stay_zeros(side: int, tmp_path: Path) -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2), nn.Flatten()).eval()
    images = random(2, 3, side, side) - 4
    with torch.no_grad():
        wanted = pooled(images).numpy()
        assert (wanted == 0).any()
        convert_to_onnx(plain_network(pooled), (3, side, side), tmp_path / "model.onnx")
    (got,) = InferenceSession(tmp_path / "model.onnx").run(None, {"image": images.numpy()})
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


class Tokens(nn.Module):
    """A convolution of tokens after a product of matrices, as in EfficientViM."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(4, 6, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = images.flatten(2)
        return self.mix(tokens @ tokens.transpose(1, 2)).flatten(1)


FILES: list[tuple[str, Module, tuple[int, int, int]]] = [
    ("several", Several, (3, 8, 8)),
    ("tokens", Tokens, (4, 4, 4)),
    ("channels", lambda: EcaModule(8), (8, 6, 6)),
    ("context", lambda: GlobalContext(8, rd_ratio=0.5), (8, 6, 6)),
    ("response", lambda: FilterResponseNormTlu2d(8), (8, 6, 6)),
    ("windows", lambda: HaloAttn(16, num_heads=2, block_size=4, halo_size=1), (16, 8, 8)),
    ("bottleneck", lambda: BottleneckAttn(16, feat_size=(4, 4), num_heads=2), (16, 4, 4)),
    ("linear", lambda: LinearSelfAttention(8), (8, 4, 4)),
    ("blocks", SpatialTransformerBlock, (1, 7, 7)),
]


@pytest.mark.usefixtures("converters")
@pytest.mark.slow
@pytest.mark.parametrize(("build", "image"), [own[1:] for own in FILES], ids=[own[0] for own in FILES])
def test_tflite_files_of_what_is_rewritten_answer_as_torch(
    build: Module, image: tuple[int, int, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    own, images = build().eval(), random(1, *image)
    with torch.no_grad():
        wanted = own(images).numpy()
    convert_to_tflite(plain_network(own), image, tmp_path / "model.tflite")
    reader = Interpreter(str(tmp_path / "model.tflite"), num_threads=1)
    reader.allocate_tensors()
    reader.set_tensor(reader.get_input_details()[0]["index"], images.permute(0, 2, 3, 1).numpy().copy())
    reader.invoke()
    got = reader.get_tensor(reader.get_output_details()[0]["index"])
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
