"""The exact rewrites of a graph, and the scales of its channels."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from .ir import Array


@dataclass(frozen=True)
class Rewrites:
    """Which exact rewrites the graph is built with.

    Attributes:
        fold_norm: LayerNorm's weight and bias go into the Linears that read it.
        fold_scale: LayerScale goes into the Linear before it, and the factor on query-key products into the query.
        fold_bias: the key's bias is dropped, since softmax is invariant to a constant added to a whole row; the value's
            bias goes through the output projection, since the weights of a row sum to one.
        centre: the mean over the channels is subtracted from everything written into the residual stream, so that
            every LayerNorm becomes an RMSNorm (Ashkboos et al. 2024, SliceGPT, arXiv 2401.15024, section 3).
        flat: tokens are ``(N, C)`` and heads ``(H, N, d)``, without a batch dimension. LiteRT's GPU delegate computes
            such graphs wrongly, so it is off by default. ONNX files need it, since their writer puts the batch in front
            of all dimensions.
        pooled_only: the last block computes only the tokens that the head reads: the class token's query, projection
            and MLP, or the mean before fc2 where the head reads a mean without a norm before it.
        patch_rows: the patch embedding is a Linear on the pixels of patches instead of a convolution.
        fold_embed: the position embeddings of class token and registers are added to them before the run.
        half: the graph suits XNNPACK's float16. Squares are squared differences from 0, since XNNPACK fuses ``x * x``
            and the mean behind it into an operator that it has in float32 alone, and everything behind that falls back
            to float32. Every norm's mean of squares is multiplied by the number that ``half_gain`` returns, since the
            reciprocal root is not a number for arguments below 1 / 65,504. Keys and values of the last block are
            computed of all tokens even for a single query, since XNNPACK refuses to load a product of matrices with a
            constant. It is off by default, and a graph with it has more operators than one without.
        one_query: with ``pooled_only``, a single query is multiplied by the key's and the value's weights directly, so
            that no key or value is computed. Those weights are then operands of products, and in an integer file they
            have one scale each, where a Linear has one for every output.
    """

    fold_norm: bool = True
    fold_scale: bool = True
    fold_bias: bool = True
    centre: bool = True
    flat: bool = False
    pooled_only: bool = True
    patch_rows: bool = True
    fold_embed: bool = True
    half: bool = False
    one_query: bool = True

    def without(self, name: str) -> Rewrites:
        """Returns these rewrites with one switched off."""
        return replace(self, **{name: False})

    def in_half(self) -> Rewrites:
        """Returns these rewrites with ``half`` switched on."""
        return replace(self, half=True)

    def flattened(self) -> Rewrites:
        """Returns these rewrites with ``flat`` switched on."""
        return replace(self, flat=True)


@dataclass(frozen=True)
class Scales:
    """Factors that divide channels where they are written and multiply them where they are read.

    In real numbers they change nothing. In integers they make channels equally large, so that one range suits all
    channels of a tensor (cross-layer equalisation: Nagel et al. 2019, arXiv 1906.04721, eq. 11; SmoothQuant: Xiao et
    al. 2023, arXiv 2211.10438, eq. 4). The residual stream can be scaled too, since every LayerNorm is an RMSNorm here:
    the mean of squares then weighs each channel by its factor squared.

    Attributes:
        stream: factors of the residual stream, ``(C,)``, or None.
        qk: for each block, factors that multiply the query and divide the key, ``(heads * qk_dim,)``.
        v: for each block, factors of the value, ``(heads * v_dim,)``.
    """

    stream: Array | None = None
    qk: tuple[Array, ...] = ()
    v: tuple[Array, ...] = ()


DEFAULT_REWRITES = Rewrites()
ALL_REWRITES = DEFAULT_REWRITES.flattened()
NO_REWRITES = Rewrites(**{field.name: False for field in fields(Rewrites)})
