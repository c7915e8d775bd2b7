from __future__ import annotations

import json

from tests.pocketvit.conftest import Command


def test_models_are_listed_with_what_can_be_done(pocketvit: Command) -> None:
    done = pocketvit("models", "vit_*wee_patch16_reg1_gap_256")
    assert done.code == 0
    assert "vit_wee_patch16_reg1_gap_256" in done.out
    assert "differential attention" in done.out
    assert "2 of 4 can be pruned." in done.err


def test_json_holds_every_field(pocketvit: Command) -> None:
    document = json.loads(pocketvit("models", "vit_tiny_patch16_224", "--json").out)
    assert document["schema"] == "pocketvit.models"
    (own,) = document["models"]
    assert (own["name"], own["use"], own["reason"]) == ("vit_tiny_patch16_224", "prune", None)
    assert own["params"] > own["macs"] / 1000 > 0


def test_a_pattern_that_matches_nothing_is_a_mistake(pocketvit: Command) -> None:
    done = pocketvit("models", "no-such-model")
    assert done.code == 2
    assert "timm knows no model like 'no-such-model'" in done.err
