"""The example of the guide: it runs as it is printed, on a random CLIP and a tokenizer of letters."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers

from compress.model.load import ModelSpec
from compress.text_embeddings import read_text_embeddings
from compress.zero_shot import load_zero_shot, zero_shot_spec
from tests.compress.texts import two_towers
from tests.compress.tiny import images_for

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "zero-shot.md"
PLACE = '"openai/clip-vit-base-patch32"'
LETTERS = [*map(chr, range(ord("a"), ord("z") + 1)), "."]

pytestmark = pytest.mark.filterwarnings("ignore:.*(no preprocessor_config|Left out of)")


def test_the_example_with_transformers_makes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = two_towers(tmp_path, "clip")
    theirs.texts.unlink()
    units = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({unit: place for place, unit in enumerate(units)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    own = str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
    tokenizer = transformers.CLIPTokenizer(*own, model_max_length=16)
    tokenizer.save_pretrained(tmp_path)
    (code, _) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert PLACE in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace(PLACE, repr(str(tmp_path))), {})
    texts = read_text_embeddings(tmp_path / "texts.npz")
    assert (texts.names, texts.bias, texts.scale) == (("ant", "bee", "cat", "dog"), 0.0, pytest.approx(100))
    model = load_zero_shot(zero_shot_spec(ModelSpec(str(tmp_path)), texts), texts)
    images = images_for(model.plan, 8)
    tokens = tokenizer([f"a photo of a {name}." for name in texts.names], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        wanted = theirs.model(**tokens, pixel_values=images).logits_per_image
        got = model(images)
    assert float(wanted.std(1).min()) > 0.1, "the texts must differ for the comparison to mean something"
    assert float((got.softmax(1) - wanted.softmax(1)).abs().max()) < 1e-5
