"""Which exact rewrites a graph is built with, and what its channels are scaled by."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from .ir import Array


@dataclass(frozen=True)
class Rewrites:
    """Which exact rewrites the graph is built with.

    Attributes:
        fold_norm: LayerNorm's weight and bias go into the Linears that read it.
        fold_scale: LayerScale goes into the Linear before it, and the factor on query-key products into the query.
        fold_bias: the key's bias is dropped, since softmax does not see what is added to a whole row; the value's
            goes through the output projection, since the weights of a row sum to one.
        centre: everything written into the residual stream has its mean over the channels taken out, so that every
            LayerNorm becomes an RMSNorm (Ashkboos et al. 2024, SliceGPT, arXiv 2401.15024, section 3).
        flat: tokens are ``(N, C)`` and heads ``(H, N, d)``, without a dimension for the batch. LiteRT's GPU delegate
            computes such graphs wrongly, so this is the one that is off unless it is asked for; ONNX files are written
            with it, since their writer puts the batch in front of all dimensions.
        pooled_only: the last block computes what the head reads alone: the class token's query, projection and MLP,
            or the mean before fc2 where the head reads a mean that no norm comes before.
        patch_rows: the patch embedding is a Linear of the patches' pixels and not a convolution.
        fold_embed: the positions of class token and registers are added to them beforehand.
    """

    fold_norm: bool = True
    fold_scale: bool = True
    fold_bias: bool = True
    centre: bool = True
    flat: bool = False
    pooled_only: bool = True
    patch_rows: bool = True
    fold_embed: bool = True

    def without(self, name: str) -> Rewrites:
        """Returns these rewrites with one switched off."""
        return replace(self, **{name: False})

    def flattened(self) -> Rewrites:
        """Returns these rewrites with ``flat`` switched on."""
        return replace(self, flat=True)


@dataclass(frozen=True)
class Scales:
    """Factors that channels are divided by where they are written and multiplied by where they are read.

    In real numbers they change nothing. In integers one range serves all channels of a tensor, and these make the
    channels equally large (cross-layer equalisation: Nagel et al. 2019, arXiv 1906.04721, eq. 11; SmoothQuant: Xiao
    et al. 2023, arXiv 2211.10438, eq. 4). Since every LayerNorm is an RMSNorm here, even the residual stream can be
    scaled: only the mean of squares must then weigh each channel by its factor squared.

    Attributes:
        stream: of the residual stream, ``(C,)``, or None.
        qk: for each block of key over query, ``(heads * qk_dim,)``: the query is multiplied, the key divided.
        v: for each block of the value, ``(heads * v_dim,)``.
    """

    stream: Array | None = None
    qk: tuple[Array, ...] = ()
    v: tuple[Array, ...] = ()


DEFAULT_REWRITES = Rewrites()
ALL_REWRITES = DEFAULT_REWRITES.flattened()
NO_REWRITES = Rewrites(**{field.name: False for field in fields(Rewrites)})
