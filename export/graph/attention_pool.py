"""Attention pooling in a graph: its query is a constant, so that no key is computed."""

from __future__ import annotations

from .vit_parts import Normed, VitParts


def attention_pool(parts: VitParts, normed: Normed) -> str:
    """Adds the attention pooling of the last tokens, and returns the name of the pooled feature ``(…, 1, dim)``.

    The constant query goes through the key's weights, so that one Linear gives every head's scores; the mixture of
    tokens goes through the value's weights, so that no value of a token is computed, either. Where products with
    constants are to be avoided, as in XNNPACK's float16 (``half``) and without ``one_query``, values of all tokens are
    computed.

    Args:
        parts: the graph; its plan has an attention pooling.
        normed: the last tokens, with the affine map that is left to their readers.
    """
    plan, g, w, at = parts.plan, parts.g, parts.weights, "attn_pool"
    own, every = plan.attn_pool, parts.rewrites.half or not parts.rewrites.one_query
    assert own is not None
    heads, d = own.num_heads, own.head_width
    if not own.prefix and plan.num_prefix_tokens:
        rows = parts.first(normed.name, plan.num_patches, f"{at}.patches", begin=plan.num_prefix_tokens)
        normed = Normed(rows, normed.weight, normed.bias)
    n, width = g.shapes[normed.name][-2:]
    # a softmax does not see the key's bias, and a mixture of the value's bias is that bias
    key, _ = parts.affine(normed, f"{at}.k")
    value, value_bias = parts.affine(normed, f"{at}.v")
    looked = d**-0.5 * (w[f"{at}.q"].reshape(heads, 1, d) @ key.reshape(heads, d, width))[:, 0]
    scores = g.linear(normed.name, looked, None, f"{at}.scores.rows")
    rank = len(parts.batch) + 2
    scores = g.op("transpose", [scores], f"{at}.scores", perm=(*range(rank - 2), rank - 1, rank - 2))
    weights = g.op("softmax", [scores], f"{at}.softmax")
    if every:
        values = parts.heads(g.linear(normed.name, value, None, f"{at}.v"), heads, f"{at}.v")
        weights = g.op("reshape", [weights], f"{at}.softmax.heads", shape=(*parts.batch, heads, 1, n))
        mixed = g.op("batch_matmul", [weights, values], f"{at}.mixed")
        joined = parts.joined(mixed, f"{at}.mixed")
    else:
        mixed = g.op("batch_matmul", [weights, normed.name], f"{at}.mixed")
        mixed = g.op("reshape", [mixed], f"{at}.mixed.heads", shape=(heads, 1, width))
        values = g.constant(f"{at}.v.weight", value.reshape(heads, d, width))
        mixed = g.op("batch_matmul", [mixed, values], f"{at}.v", adj_y=True)
        joined = g.op("reshape", [mixed], f"{at}.v.joined", shape=(*parts.batch, 1, own.dim))
    out, out_bias = w[f"{at}.proj.weight"], w[f"{at}.proj.bias"]
    if value_bias is not None:
        out_bias = out_bias + out @ value_bias
    pooled = g.linear(joined, out, out_bias, f"{at}.proj")
    inner = parts.norm(pooled, f"{at}.norm", own_eps=own.norm_eps)
    first, first_bias = parts.affine(inner, f"{at}.fc1")
    hidden = parts.activated(inner.name, first, first_bias, f"{at}.fc1", f"{at}.act")
    second = g.linear(hidden, w[f"{at}.fc2.weight"], w[f"{at}.fc2.bias"], f"{at}.fc2")
    return g.op("add", [pooled, second], f"{at}.pooled")
