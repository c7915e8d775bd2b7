from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from compress.model.hub.card import licence_in_card
from compress.model.hub.place import find_place, is_place, short_name
from runtime import ModelError
from tests.compress.model.hub.fake_hub import COMMIT, TOKEN, serving
from tests.compress.model.hub.made import saved
from tests.compress.model.hub.test_answers import timm_folder

ROOT = Path(__file__).resolve().parents[4]

CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
from compress.model.load import ModelSpec, load_model, resolved
from runtime import PocketVitError
out = []
for name in sys.argv[1:]:
    try:
        spec = resolved(ModelSpec(name))
        model = load_model(spec, spec.hub.outputs)
        out.append([spec.hub.place.name, spec.hub.licence, float(model.head.weight.sum())])
    except PocketVitError as error:
        out.append(str(error))
assert "transformers" not in sys.modules
print(json.dumps(out))
"""


def read_in_child(names: tuple[str, ...], cache: Path, **environment: str) -> list[object]:
    """Reads models in a process of its own, since ``huggingface_hub`` reads its environment when it is imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own = {**clean, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    command = [sys.executable, "-c", CHILD, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=own, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_repositories_are_read_from_the_hub_and_later_without_it(tmp_path: Path) -> None:
    saved(tmp_path / "vit")
    (tmp_path / "vit/README.md").write_text("---\ntags: [x]\nlicense: cc-by-4.0\n---\n")
    (tmp_path / "vit/modeling.py").write_text("raise SystemExit(9)")
    saved(tmp_path / "sharded", max_shard_size="20KB")
    timm_folder(tmp_path / "timm")
    repos = {"own/vit": tmp_path / "vit", "own/timm": tmp_path / "timm", "own/sharded": tmp_path / "sharded"}
    total = float(load_file(tmp_path / "vit/model.safetensors")["classifier.weight"].sum())
    good = ("hf:own/vit", f"hf:own/vit@{COMMIT}", "hf_hub:own/timm", "hf-hub:own/timm", "hf:own/sharded")
    with serving({**repos, "own/private": tmp_path / "vit", "own/gated": tmp_path / "vit"}, ("own/private",)) as hub:
        hub.gated = ("own/gated",)
        bad = ("hf:own/none", "hf:own/vit@nowhere", "hf:own/gated", "hf:own/private")
        found = read_in_child((*good, *bad), tmp_path / "cache", HF_ENDPOINT=hub.endpoint)
        assert found[:2] == [[f"own/vit@{COMMIT}", "cc-by-4.0", pytest.approx(total)]] * 2
        assert found[2] == found[3]
        assert found[2][:2] == [f"own/timm@{COMMIT}", "mit"]  # type: ignore[index]
        assert found[4] == [f"own/sharded@{COMMIT}", None, pytest.approx(total)]
        texts = ["no repository own/none", "no revision 'nowhere'", "own/gated is gated", "no repository own/private"]
        assert all(text in str(error) for text, error in zip(texts, found[5:], strict=True)), found[5:]
        assert not any(name.endswith(".py") for name in hub.asked)
        private = read_in_child(("hf:own/private",), tmp_path / "cache", HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN)
        assert private[0][0] == f"own/private@{COMMIT}"  # type: ignore[index]
    offline = read_in_child((*good, "hf:own/other"), tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert offline[:5] == found[:5]
    assert "Go online" in str(offline[5])


def test_names_of_places() -> None:
    for name in ("hf:a/b", "hf_hub:timm/x", "hf-hub:timm/x", "./model", "~/model", "a/b", "C:\\model"):
        assert is_place(name), name
    assert not is_place("vit_tiny_patch16_224")
    assert short_name("hf:google/vit-base@main") == "vit-base"


@pytest.mark.parametrize(
    "name", ["hf:", "hf:vit", "hf:a/b/c", "hf:../x", "hf:a/..", "hf:a/b@", "hf:a/b@../c", "hf:a b/c"]
)
def test_a_repository_has_an_owner_and_a_name(name: str) -> None:
    with pytest.raises(ModelError, match="names no repository"):
        find_place(name)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\r\nlicense: 'mit' # ours\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("license: mit", None),
        ("---\nlicense: mit", None),
        ("---\nlicense: a\x1b[31m\n---\n", None),
        ("", None),
    ],
)
def test_the_licence_stands_in_the_front_matter_of_the_card(tmp_path: Path, text: str, licence: str | None) -> None:
    card = tmp_path / "README.md"
    card.write_text(text)
    assert licence_in_card(card) == licence
    assert licence_in_card(None) is None
