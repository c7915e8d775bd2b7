"""Small random models as ``transformers`` saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

LABELS = ("ant", "bee", "cat", "dog", "eel")
_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
}
_VIT = {**_SHAPE, "intermediate_size": 72}
_DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
_DECODER |= {"decoder_intermediate_size": 16, "mask_ratio": 0.0}
_NAMES: dict[str, Any] = {
    "id2label": dict(enumerate(LABELS)),
    "label2id": {name: index for index, name in enumerate(LABELS)},
}
_TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 99}
_TEXT |= {"bos_token_id": 1, "eos_token_id": 2}


def _clip(**options: Any) -> Any:
    return transformers.CLIPConfig(vision_config=_VIT, text_config=_TEXT, projection_dim=24, **options)


_SIGLIP = {**_VIT, "hidden_act": "gelu_pytorch_tanh"}
_BEIT = {**_VIT, "layer_norm_eps": 1e-5}


def _siglip(**options: Any) -> Any:
    return transformers.SiglipConfig(vision_config=_SIGLIP, text_config=_TEXT, **options)


def _relative(**options: Any) -> dict[str, Any]:
    return {**_BEIT, **_NAMES, **options}


MODELS = {
    "siglip": lambda: transformers.SiglipForImageClassification(_siglip(**_NAMES)),
    "beit": lambda: transformers.BeitForImageClassification(
        transformers.BeitConfig(**_relative(use_relative_position_bias=True))
    ),
    "beit-shared": lambda: transformers.BeitForImageClassification(
        transformers.BeitConfig(
            **_relative(
                use_shared_relative_position_bias=True,
                use_absolute_position_embeddings=True,
                use_mean_pooling=False,
                layer_scale_init_value=0.0,
            )
        )
    ),
    "data2vec": lambda: transformers.Data2VecVisionForImageClassification(
        transformers.Data2VecVisionConfig(**_relative(use_relative_position_bias=True))
    ),
    "vit": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**_VIT, **_NAMES, hidden_act="gelu_new", layer_norm_eps=1e-4)
    ),
    "vit-no-bias": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**{**_VIT, "image_size": [32, 64], "patch_size": [16, 8]}, **_NAMES, qkv_bias=False)
    ),
    "deit": lambda: transformers.DeiTForImageClassification(transformers.DeiTConfig(**_VIT, **_NAMES)),
    "deit-distilled": lambda: transformers.DeiTForImageClassificationWithTeacher(
        transformers.DeiTConfig(**_VIT, **_NAMES, hidden_act="relu")
    ),
    "dinov2": lambda: transformers.Dinov2ForImageClassification(
        transformers.Dinov2Config(**_SHAPE, **_NAMES, mlp_ratio=3)
    ),
    "dinov2-registers": lambda: transformers.Dinov2WithRegistersForImageClassification(
        transformers.Dinov2WithRegistersConfig(**_SHAPE, **_NAMES, num_register_tokens=3, mlp_ratio=2)
    ),
    "dinov2-swiglu": lambda: transformers.Dinov2ForImageClassification(
        transformers.Dinov2Config(**_SHAPE, **_NAMES, use_swiglu_ffn=True)
    ),
    "clip": lambda: transformers.CLIPForImageClassification(_clip(**_NAMES)),
    "clip-projection": lambda: transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**_VIT, projection_dim=24)
    ),
    "clip-whole": lambda: transformers.CLIPModel(_clip()),
}
"""The supported models with a head; each is made by ``transformers`` itself."""

BACKBONES = {
    "siglip_vision_model": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**_SIGLIP)),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**_VIT)),
    "vit_mae": lambda: transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**_VIT, **_DECODER)).eval(),
    "deit": lambda: transformers.DeiTModel(transformers.DeiTConfig(**_VIT)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**_SHAPE, mlp_ratio=2)),
    "dinov3_vit": lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**_VIT, num_register_tokens=3)),
    "dinov3_gated": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            **{**_VIT, "image_size": [32, 48]},
            use_gated_mlp=True,
            hidden_act="silu",
            key_bias=True,
            query_bias=False,
            proj_bias=False,
            mlp_bias=False,
        )
    ),
    "clip_vision_model": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**_VIT)),
}
"""Models without a head."""


def make(kind: str, models: dict[str, Any] = MODELS) -> Any:
    """Returns a model of ``transformers`` in evaluation mode, no parameter left at a degenerate value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models[kind]()
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value) * (0.2 if value.ndim < 2 else 0.1))
    return model.eval()


def saved(folder: Path, kind: str = "vit", models: dict[str, Any] = MODELS, **options: Any) -> Any:
    """Saves a model in ``folder`` and returns it; ``options`` go to ``save_pretrained``."""
    model = make(kind, models)
    model.save_pretrained(folder, **options)
    return model


def edit(path: Path, **values: Any) -> None:
    """Replaces fields of a JSON file; None removes one."""
    fields = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def answers(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits or the image embeddings of a model of ``transformers``."""
    with torch.no_grad():
        if isinstance(model, transformers.CLIPModel):
            found: torch.Tensor = model.visual_projection(model.vision_model(pixel_values=images).pooler_output)
            return found
        out = model(pixel_values=images)
    found = out.logits if hasattr(out, "logits") else out.image_embeds
    return found
