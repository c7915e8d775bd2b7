from __future__ import annotations

import pytest

from compress.model.catalogue import ListedModel, catalogued, listed_models, names_like
from runtime import ModelError


def test_a_model_that_can_be_pruned_has_its_counts() -> None:
    assert catalogued("vit_tiny_patch16_224") == ListedModel(
        "vit_tiny_patch16_224", "VisionTransformer", "prune", None, 5_717_416, 1_253_683_200
    )


def test_a_refused_model_names_the_part() -> None:
    own = catalogued("vit_dwee_patch16_reg1_gap_256")
    assert (own.kind, own.use, own.reason, own.macs) == ("VisionTransformer", "refused", "differential attention", None)
    assert own.params is not None
    assert catalogued("swin_tiny_patch4_window7_224").reason == "window attention"


def test_patterns_are_parts_or_whole_names() -> None:
    assert [own.name for own in listed_models("vit_tiny_patch16_2*")] == ["vit_tiny_patch16_224"]
    assert "vit_small_patch16_dinov3" in names_like("dinov3")
    assert len(names_like(None)) > 1_000
    with pytest.raises(ModelError, match="knows no model like 'nothing-of-that-name'"):
        names_like("nothing-of-that-name")
