"""The shape of a Vision Transformer as data: every width, and the options that change its graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from runtime.storage.documents import Document

from .errors import PlanError
from .plan_parts import PoolPlan, StemOp, stem_sizes

MULTIPLE = 8
"""Every prunable width is a multiple of this (tensor-core and SIMD alignment)."""

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
Pooling = Literal["token", "avg", "avg_all", "token_and_avg", "map"]
PosEmbed = Literal["none", "patches", "all"]
NormPlace = Literal["before_pool", "after_pool", "none"]
NormType = Literal["layer", "rms"]
BlockKind = Literal["pre", "post", "parallel"]
QkNorm = Literal["none", "layer", "rms"]
Rope = Literal["none", "shared", "per_head"]
OutputForm = Literal["classes", "vector", "unit_vector", "grid"]
"""What the outputs are: a logit for each class, a vector, a vector of length 1, or a vector for each patch."""

OutputKind = Literal["classes", "vector", "grid"]
"""What a file answers with: a logit for each class, one vector, or a vector for each patch."""

_NEW = {"omit_default": True}
"""Metadata of fields that plans without this option do not write."""


@dataclass(frozen=True)
class BlockPlan:
    """The widths of one transformer block.

    Attributes:
        num_heads: attention heads, at least 1.
        qk_dim: query and key width of each head, a multiple of 8.
        v_dim: value width of each head, a multiple of 8.
        mlp_dim: hidden units of the MLP, a multiple of 8.

    Raises:
        PlanError: a width is not a positive multiple of 8, or there is no head.
    """

    num_heads: int
    qk_dim: int
    v_dim: int
    mlp_dim: int

    def __post_init__(self) -> None:
        if self.num_heads < 1:
            raise PlanError("num_heads must be at least 1", got=self.num_heads)
        for name in ("qk_dim", "v_dim", "mlp_dim"):
            _check_width(name, getattr(self, name))


@dataclass(frozen=True)
class ShapePlan:
    """Everything needed to build a sliced Vision Transformer, but its weights.

    Attributes:
        img_size: input height and width, pixels, multiples of ``patch_size``.
        patch_size: patch height and width, pixels.
        in_chans: input channels.
        num_classes: outputs of the head: its classes, or the values of its vector, or what each block gives to a grid.
        embed_dim: width of the residual stream, a multiple of 8.
        blocks: the widths of each block, first to last.
        attn_scale: factor on query-key products; that of the unpruned head width, kept when slicing.
        class_token: whether a class token comes first.
        dist_token: whether a distillation token and a second head follow it (distilled DeiT).
        reg_tokens: number of register tokens.
        pos_embed: position embedding on no token, on patches only, or on all tokens.
        pooling: the head reads the class token, the mean of patches, or the mean of all tokens; with ``token_and_avg``
            one head reads the class token, a second one the mean of patches, and both are averaged; with ``map`` the
            head reads what one learnt query finds in the last tokens, see ``attn_pool``.
        norm_pre: a norm after the embedding (CLIP); an RMSNorm there has a Linear to ``embed_dim`` behind it.
        norm: where the last norm stands.
        norm_eps: epsilon of every norm, or one for each norm in the order of ``norm_names``.
        norm_type: ``layer`` (LayerNorm with weight and bias), or ``rms`` (RMSNorm without a weight).
        norm_dim: number that RMSNorms in the stream divide the sum of squares by: the width of the stream before it
            was cut. 0 stands for ``embed_dim``.
        pre_dim: width of the embedding before ``norm_pre`` or ``patch_norm`` with RMSNorms; 0 without.
        act: activation of the MLPs.
        qkv_bias: bias on query, key and value.
        proj_bias: bias on the attention's output projection.
        patch_bias: bias on the patch embedding.
        layer_scale: learned per-channel scale on both branches of a block.
        attn_pool: the attention pooling, with pooling ``map``.
        block_kind: blocks read the stream through norms (``pre``), or read it as it is and norm what their branches
            write (``post``), or their MLPs read the same as their attention (``parallel``).
        position_bias: a constant table for every block and head that is added to the scores of attention (BEiT).
        double_norm: a second LayerNorm between that of a block's MLP and the MLP (ViTamin).
        stem: convolutions and what stands between them before the patch embedding, which then reads the last map.
        gated_mlp: whether the activation of a second Linear multiplies the hidden units (SwiGLU and others).
        mlp_norm: a LayerNorm of the hidden units before the MLP's last Linear (sub-LN).
        attn_norm: a LayerNorm of what attention's projection reads, over all heads (sub-LN).
        qk_norm: a norm of every head's query and key, with a weight for each dimension.
        qk_norm_dim: number that the norms of queries and keys divide their sums by: the width of a head before it was
            cut, so that removed units count as zeros. 0 stands for the width itself.
        attn_norm_dim: the same for ``attn_norm``: the width of all heads.
        mlp_norm_dim: the same for ``mlp_norm``: the hidden units.
        inner_eps: epsilon of the norms inside attention and MLP.
        patch_norm: a norm of the patches before positions are added (AIMv2).
        rope: rotary positions: pairs of a query's and a key's dimensions are rotated by angles that depend on the
            patch, by one table for all heads, or by a table for each.
        output: what the outputs are: logits of classes, a vector, a vector of length 1, or one for each patch.
        grid_blocks: numbers, from 1 and rising, of inner blocks that a grid also reads, each through a norm and a
            Linear. Their values come before those of the last block.
        text_dim: values of the vector that the head gives to a zero-shot classifier (CLIP, SigLIP). The vector is
            scaled to length 1, and a last Linear, whose rows are the vectors of texts, makes the logits of it. 0 where
            the head itself gives the outputs.

    Raises:
        PlanError: a value is out of range or two options contradict each other.
    """

    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_chans: int
    num_classes: int
    embed_dim: int
    blocks: tuple[BlockPlan, ...]
    attn_scale: float
    class_token: bool = True
    dist_token: bool = False
    reg_tokens: int = 0
    pos_embed: PosEmbed = "all"
    pooling: Pooling = "token"
    norm_pre: bool = False
    norm: NormPlace = "before_pool"
    norm_eps: float | tuple[float, ...] = 1e-6
    act: Activation = "gelu"
    qkv_bias: bool = True
    proj_bias: bool = True
    patch_bias: bool = True
    layer_scale: bool = False
    norm_type: NormType = "layer"
    norm_dim: int = 0
    pre_dim: int = 0
    gated_mlp: bool = field(default=False, metadata=_NEW)
    mlp_norm: bool = field(default=False, metadata=_NEW)
    attn_norm: bool = field(default=False, metadata=_NEW)
    qk_norm: QkNorm = field(default="none", metadata=_NEW)
    qk_norm_dim: int = field(default=0, metadata=_NEW)
    attn_norm_dim: int = field(default=0, metadata=_NEW)
    mlp_norm_dim: int = field(default=0, metadata=_NEW)
    inner_eps: float = field(default=1e-6, metadata=_NEW)
    patch_norm: bool = field(default=False, metadata=_NEW)
    rope: Rope = field(default="none", metadata=_NEW)
    attn_pool: PoolPlan | None = field(default=None, metadata=_NEW)
    position_bias: bool = field(default=False, metadata=_NEW)
    block_kind: BlockKind = field(default="pre", metadata=_NEW)
    stem: tuple[StemOp, ...] = field(default=(), metadata=_NEW)
    output: OutputForm = field(default="classes", metadata=_NEW)
    double_norm: bool = field(default=False, metadata=_NEW)
    grid_blocks: tuple[int, ...] = field(default=(), metadata=_NEW)
    text_dim: int = field(default=0, metadata=_NEW)

    def __post_init__(self) -> None:
        _check_width("embed_dim", self.embed_dim)
        if not self.blocks:
            raise PlanError("A plan needs at least one block", got="none")
        for name in ("in_chans", "num_classes"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} must be at least 1", got=getattr(self, name))
        if self.reg_tokens < 0:
            raise PlanError("reg_tokens must not be negative", got=self.reg_tokens)
        if len(self.img_size) != 2 or len(self.patch_size) != 2:
            raise PlanError(
                "img_size and patch_size are a height and a width", got=f"{self.img_size} and {self.patch_size}"
            )
        if self.stem and min(self.img_size) < 1:
            raise PlanError("The image has no pixel", got=self.img_size)
        for side, size, patch in zip(("height", "width"), self.map_size, self.patch_size, strict=True):
            if patch < 1 or size < patch or size % patch:
                raise PlanError(
                    f"The image {side} does not divide into patches",
                    expected=f"a positive multiple of {max(patch, 1)}",
                    got=size,
                    fix="Change --img-size or --patch-size",
                )
        if not (math.isfinite(self.attn_scale) and self.attn_scale > 0):
            raise PlanError("attn_scale must be positive", got=self.attn_scale)
        self._check_norms()
        choices = {
            "pos_embed": PosEmbed,
            "pooling": Pooling,
            "norm": NormPlace,
            "norm_type": NormType,
            "act": Activation,
            "qk_norm": QkNorm,
            "rope": Rope,
            "block_kind": BlockKind,
            "output": OutputForm,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise PlanError(f"Unknown {name}", expected=", ".join(get_args(allowed)), got=getattr(self, name))
        if self.pooling in ("token", "token_and_avg") and not self.class_token:
            raise PlanError("Pooling the class token needs one", fix="Set class_token or pool by average")
        if (self.attn_pool is None) != (self.pooling != "map"):
            raise PlanError(
                "Pooling by attention needs its widths",
                expected="pooling map with attn_pool",
                got="none" if self.attn_pool is None else self.pooling,
            )
        if self.pooling == "map" and self.norm == "after_pool":
            raise PlanError("Pooling by attention has its own norm", expected="the last norm before it", got=self.norm)
        if self.double_norm and (self.norm_type == "rms" or self.block_kind != "pre"):
            raise PlanError("A second norm before the MLP belongs to LayerNorms in blocks of kind pre")
        if self.block_kind == "post" and (self.norm_type == "rms" or self.layer_scale):
            raise PlanError("Blocks with norms behind their branches have LayerNorms and no LayerScale")
        if self.dist_token and not (self.class_token and self.pooling == "token"):
            raise PlanError("A distillation token needs a class token, and pooling by token")
        if self.pooling == "token_and_avg" and self.norm != "before_pool":
            raise PlanError("Pooling by token and average needs the last norm before it", got=self.norm)
        if self.text_dim < 0 or (self.text_dim and (self.output != "classes" or self.two_heads)):
            raise PlanError(
                "text_dim is the length of the vector of one head that is compared with texts",
                expected="0, or a positive number with output classes and one head",
                got=f"{self.text_dim} with output {self.output} and {2 if self.two_heads else 1} heads",
            )
        self._check_grid()

    def _check_grid(self) -> None:
        if self.output == "grid" and (self.pooling != "avg" or self.norm == "after_pool"):
            raise PlanError(
                "A grid pools nothing",
                expected="pooling avg, and the last norm before it or none",
                got=f"pooling {self.pooling} and norm {self.norm}",
            )
        rising = tuple(sorted(set(self.grid_blocks))) == self.grid_blocks
        inner = all(1 <= number < len(self.blocks) for number in self.grid_blocks)
        if self.grid_blocks and not (self.output == "grid" and rising and inner):
            raise PlanError(
                "grid_blocks are the inner blocks that a grid reads",
                expected=f"rising numbers of 1 to {len(self.blocks) - 1} with output grid",
                got=f"{self.grid_blocks} with output {self.output}",
            )

    def _check_norms(self) -> None:
        values = self.norm_eps if isinstance(self.norm_eps, tuple) else (self.norm_eps,)
        if not all(math.isfinite(value) and value > 0 for value in values):
            raise PlanError("norm_eps must be positive", got=self.norm_eps)
        if isinstance(self.norm_eps, tuple) and len(values) != len(self.norm_names):
            raise PlanError("norm_eps needs a value for each norm", expected=len(self.norm_names), got=len(values))
        rms = self.norm_type == "rms"
        if self.norm_dim < 0 or (self.norm_dim and not (rms and self.norm_dim >= self.embed_dim)):
            raise PlanError("norm_dim is the width of a stream that was cut", expected="RMSNorms", got=self.norm_dim)
        if (self.pre_dim > 0) != (rms and (self.norm_pre or self.patch_norm)) or self.pre_dim < 0:
            raise PlanError("pre_dim belongs to an RMSNorm after the embedding", got=self.pre_dim)
        if self.norm_pre and self.patch_norm:
            raise PlanError("A norm of the patches and one after the embedding exclude each other")
        if not (math.isfinite(self.inner_eps) and self.inner_eps > 0):
            raise PlanError("inner_eps must be positive", got=self.inner_eps)
        for name, there in (("qk", self.qk_norm != "none"), ("attn", self.attn_norm), ("mlp", self.mlp_norm)):
            dim = getattr(self, f"{name}_norm_dim")
            if dim < 0 or (dim and not there):
                raise PlanError(f"{name}_norm_dim is the width of a norm before a cut", expected="that norm", got=dim)

    @property
    def norm_names(self) -> tuple[str, ...]:
        """Names of the model's norms, first to last, such as ``blocks.0.norm1``."""
        each = ("norm1", "norm2", "norm3") if self.double_norm else ("norm1", "norm2")
        inner = (f"blocks.{i}.{norm}" for i in range(len(self.blocks)) for norm in each)
        first = ["norm_pre"] if self.norm_pre else ["patch_norm"] if self.patch_norm else []
        last = [*(f"taps.{i}.norm" for i in range(len(self.grid_blocks))), "norm"] if self.norm != "none" else []
        return (*first, *inner, *last)

    def eps_of(self, name: str) -> float:
        """Returns the epsilon of the norm ``name``."""
        return self.norm_eps[self.norm_names.index(name)] if isinstance(self.norm_eps, tuple) else self.norm_eps

    @property
    def two_heads(self) -> bool:
        """Whether a second classifier is averaged with the first: that of a distillation token or of the mean."""
        return self.dist_token or self.pooling == "token_and_avg"

    @property
    def head_dim(self) -> int:
        """Width of the head's input."""
        return self.attn_pool.dim if self.attn_pool else self.embed_dim

    @property
    def head_outputs(self) -> int:
        """Values that the head gives: the outputs, or the vector that is compared with those of texts."""
        return self.text_dim or self.num_classes

    @property
    def is_vector(self) -> bool:
        """Whether the model answers with a vector, or with one for each patch, and not with classes."""
        return self.output != "classes"

    @property
    def output_kind(self) -> OutputKind:
        """What the files of the model answer with."""
        return "vector" if self.output == "unit_vector" else self.output

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for one image: its values, or the grid's rows and columns and the values of a patch."""
        if self.output != "grid":
            return (self.num_classes,)
        return (*self.grid_size, self.num_classes * (len(self.grid_blocks) + 1))

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.map_size
        return rows // self.patch_size[0], columns // self.patch_size[1]

    @property
    def token_dim(self) -> int:
        """Width of the patches that the embedding makes."""
        return self.pre_dim or self.embed_dim

    @property
    def placed_dim(self) -> int:
        """Width of the tokens that positions are added to."""
        return self.embed_dim if self.patch_norm else self.token_dim

    @property
    def mixes_qk(self) -> bool:
        """Whether queries and keys of a head can be multiplied by a matrix and its inverse."""
        return self.qk_norm == "none" and self.rope == "none"

    def rope_pairs(self, block: BlockPlan) -> int:
        """Returns the number of rotated pairs in the table of ``block``: of one head, or of all."""
        return block.qk_dim // 2 * (block.num_heads if self.rope == "per_head" else 1)

    @property
    def num_patches(self) -> int:
        """Patches per image."""
        return math.prod(self.grid_size)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of what the patch embedding reads: of the stem's last map, or of the image."""
        if not self.stem:
            return self.img_size
        _, rows, columns = stem_sizes(self.stem, self.in_chans, self.img_size)[-1]
        return rows, columns

    @property
    def map_chans(self) -> int:
        """Channels of what the patch embedding reads."""
        return self.stem[-1].out_chans if self.stem else self.in_chans

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens that stand before the patches: class, distillation, registers."""
        return int(self.class_token) + int(self.dist_token) + self.reg_tokens

    @property
    def num_tokens(self) -> int:
        """All tokens of an image."""
        return self.num_patches + self.num_prefix_tokens

    def with_block(self, index: int, block: BlockPlan) -> ShapePlan:
        """Returns this plan with one block replaced."""
        return replace(self, blocks=(*self.blocks[:index], block, *self.blocks[index + 1 :]))


PLAN_DOCUMENT = Document("pocketvit.plan", 3, ShapePlan)


def _check_width(name: str, value: int) -> None:
    if value < MULTIPLE or value % MULTIPLE:
        raise PlanError(f"{name} must be a positive multiple of {MULTIPLE}", got=value)
