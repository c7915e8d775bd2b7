"""Second moments are those of their definition: weighted by token, with keys as a softmax sees them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress.bases.analysis import analyse
from compress.bases.moments import TokenWeights, second_moments, with_spread
from compress.model.canonical import canonical
from compress.model.slicing import keep_all
from compress.model.vit import SlicedViT
from tests.compress.bases.analysed import ROOMY
from tests.compress.kinds import model_of_kind
from tests.compress.tiny import images_for, tiny_vit


def weights_for(model: SlicedViT) -> TokenWeights:
    """Returns unequal weights of tokens with mean 1."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.rand(2 * len(model.blocks), model.plan.num_tokens, generator=generator, dtype=torch.float64) + 0.2
    own = drawn / drawn.mean(1, keepdim=True)
    count = len(model.blocks)
    return TokenWeights(tuple(own[:count]), tuple(own[count:]))


def with_one(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)


def mean_product(x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the mean of ``w x x^T`` over images and tokens."""
    every = torch.ones(x.shape[1], dtype=x.dtype) if weight is None else weight
    return torch.einsum("bnd,bne,n->de", x, x, every) / (x.shape[0] * x.shape[1])


@pytest.mark.parametrize("key", ["vit", "clip", "no-norm", "after-pool"])
def test_they_are_those_of_the_definition(key: str) -> None:
    model = canonical(model_of_kind(key), torch.float64)
    images, weights = images_for(model.plan, 20).double(), weights_for(model)
    found = second_moments(model, images, weights)
    near = {"rtol": 1e-6, "atol": 1e-8}
    energies, x = [], model.stream(images).detach()
    with torch.no_grad():
        for i, (block, own) in enumerate(zip(model.blocks, found.blocks, strict=True)):
            normed = block.norm1(x)
            torch.testing.assert_close(found.inputs[f"blocks.{i}.norm1"], mean_product(x), **near)
            energies.append(mean_product(normed))
            heads, width = block.attn.num_heads, block.attn.qk_dim
            weight = weights.attended[i]
            for head in range(heads):
                rows = slice(head * width, (head + 1) * width)
                torch.testing.assert_close(
                    own.queries[head], mean_product(block.attn.q(normed)[..., rows], weight), **near
                )
                keys = block.attn.k(normed)[..., rows]
                # what all keys of an image share moves all scores of a query alike, and a softmax does not see it
                keys = keys - keys.mean(1, keepdim=True)
                torch.testing.assert_close(own.keys[head], mean_product(keys), **near)
            mixed = block.attn.mixed(normed)
            torch.testing.assert_close(own.mixed, mean_product(with_one(mixed), weight), **near)
            x = x + block.attn.proj(mixed)
            normed = block.norm2(x)
            torch.testing.assert_close(found.inputs[f"blocks.{i}.norm2"], mean_product(x), **near)
            energies.append(mean_product(normed))
            hidden = block.mlp.hidden(normed)
            torch.testing.assert_close(own.hidden, mean_product(with_one(hidden), weights.transformed[i]), **near)
            x = x + block.mlp.fc2(hidden)
        if key != "no-norm":
            torch.testing.assert_close(found.inputs["norm"], mean_product(x), **near)
            energies.append(mean_product(model.norm(x)))
    assert len(found.inputs) == len(energies)
    torch.testing.assert_close(found.stream, sum(energies) / len(energies), **near)  # type: ignore[arg-type]


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = canonical(model_of_kind("vit"), torch.float64)
    images, weights = images_for(model.plan, 9).double(), weights_for(model)
    whole = second_moments(model, images, weights)
    monkeypatch.setattr("compress.bases.moments.batches_of", lambda images, tokens: images.split(2))
    parts = second_moments(model, images, weights)
    torch.testing.assert_close(whole.stream, parts.stream)
    torch.testing.assert_close(whole.blocks[1].hidden, parts.blocks[1].hidden)


def test_some_tokens_stand_for_all_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    model = canonical(model_of_kind("dinov2-reg"), torch.float64)
    images, weights = images_for(model.plan, 120).double(), weights_for(model)
    whole = second_moments(model, images, weights).blocks[0].hidden
    monkeypatch.setattr("compress.bases.moments.batches_of", lambda images, tokens: images.split(2))
    monkeypatch.setattr("compress.bases.moments._ROWS", 120 * model.plan.num_tokens // 2)
    some = second_moments(model, images, weights).blocks[0].hidden
    assert not torch.equal(some, whole)
    assert float((some - whole).norm() / whole.norm()) < 0.1
    # the first token counts fully, and each drawn token for several
    assert float(some[-1, -1]) == pytest.approx(1.0, abs=0.1)


def test_copies_give_unused_units_energy_and_nothing_else() -> None:
    model = canonical(model_of_kind("vit"), torch.float64)
    plain = second_moments(model, images_for(model.plan, 9).double(), weights_for(model))
    wide = with_spread(plain)
    for own, other in zip(plain.blocks, wide.blocks, strict=True):
        added = other.hidden - own.hidden
        size = len(added) - 1
        expected = 0.02 * own.hidden.diagonal()[:size].mean() * torch.eye(size, dtype=torch.float64)
        torch.testing.assert_close(added[:size, :size], expected)
        assert not added[size].any()
        assert not added[:, size].any()
        torch.testing.assert_close(other.mixed, own.mixed, rtol=0, atol=0)
    torch.testing.assert_close(wide.stream, plain.stream, rtol=0, atol=0)


def test_copies_keep_the_weights_of_cut_mlps_closer_to_their_values() -> None:
    model, images = tiny_vit(ROOMY), images_for(ROOMY, 64)
    moved = []
    for distinct in (None, 64, 16):
        found = analyse(model, images, distinct=distinct)
        whole = keep_all(ROOMY)
        units = tuple(range(ROOMY.blocks[0].mlp_dim - 8))
        kept = replace(whole, blocks=(replace(whole.blocks[0], mlp=units), *whole.blocks[1:]))
        cut, start = (one.blocks[0].mlp.fc2.weight.detach() for one in (found.cut(kept), found.model))  # type: ignore[union-attr]
        moved.append(float((cut - start[:, : len(units)]).norm()))  # type: ignore[index]
    assert moved[0] == moved[1] > moved[2]


def test_units_that_write_where_the_features_do_not_see_go_first() -> None:
    model = tiny_vit(ROOMY)
    unseen = list(range(16, 24))
    with torch.no_grad():
        model.norm.weight[3] = 0.0
        fc2 = model.blocks[1].mlp.fc2.weight
        fc2[:, unseen] = 0.0
        # of either sign, so that they hardly change the size of the stream
        fc2[3, unseen] = 0.5 * torch.tensor([1.0, -1.0] * 4)
    ranks = analyse(model, images_for(ROOMY, 64)).importance.blocks[1].mlp
    first = ranks.argsort(kind="stable")[:8].tolist()
    assert len(set(first) & set(unseen)) >= 6


def test_tokens_that_the_features_do_not_see_count_little_in_the_last_block() -> None:
    """Half of the loss is the pooled token's, so its query and hidden units count most."""
    from compress.bases.analysis import features_in_canonical
    from compress.bases.sensitivity import sensitivity_of

    model = tiny_vit(ROOMY)
    plain, back = canonical(model), features_in_canonical(model).matrix
    felt = sensitivity_of(plain, images_for(ROOMY, 64), back, 0.5, 2)
    last = felt.tokens.transformed[-1]
    assert float(last[0]) > 2 * float(last[1:].max())
    # patches are alike by position, and have one weight
    assert len(set(last[1:].tolist())) == 1
