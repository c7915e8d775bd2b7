from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from compress.model.hub.fields import Fields, read_fields
from compress.model.hub.processor import Processed, read_processor
from runtime import ModelError, preprocess

SIZES = ((61, 47), (47, 61), (80, 80), (33, 120), (59, 74), (75, 58))

PROCESSORS = {
    "vit": lambda: transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}),
    "vit-bicubic": lambda: transformers.ViTImageProcessorPil(size={"height": 32, "width": 24}, resample=3),
    "deit": lambda: transformers.DeiTImageProcessorPil(
        size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32}
    ),
    "dinov2": lambda: transformers.BitImageProcessorPil(
        size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6]
    ),
    "clip": lambda: transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ),
    "beit": lambda: transformers.BeitImageProcessorPil(size={"height": 32, "width": 40}),
    "siglip": lambda: transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    "not-scaled": lambda: transformers.ViTImageProcessorPil(
        size={"height": 32, "width": 32}, do_rescale=False, image_mean=[120.0] * 3, image_std=[60.0] * 3
    ),
    "other-factor": lambda: transformers.ViTImageProcessorPil(
        size={"height": 32, "width": 32}, rescale_factor=1 / 127.5
    ),
    "not-normalised": lambda: transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False),
    "lanczos": lambda: transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 40}, crop_size={"height": 33, "width": 33}, resample=1
    ),
}


def processed(kind: str = "ViTImageProcessor", **config: Any) -> Processed:
    return read_processor(Fields("config", config, {}), kind, 3)


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_become_the_same_numbers_as_with_the_image_processor(tmp_path: Path, name: str) -> None:
    processor = PROCESSORS[name]()
    processor.save_pretrained(tmp_path)
    own = read_processor(read_fields(tmp_path / "preprocessor_config.json"), "", 3)
    assert own.size is not None
    spec = own.metadata.preprocessing(*own.size, stretch=False)
    for size in SIZES:
        wanted = processor(picture(*size), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        got = preprocess(picture(*size), spec)
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max(), size


def test_a_processor_that_scales_floats_is_matched_within_one_step(tmp_path: Path) -> None:
    processor = transformers.DINOv3ViTImageProcessor(size={"height": 32, "width": 24})
    processor.save_pretrained(tmp_path)
    own = read_processor(read_fields(tmp_path / "preprocessor_config.json"), "", 3)
    assert (own.size, own.rounded) == ((32, 24), True)
    spec = own.metadata.preprocessing(32, 24, stretch=False)
    for size in SIZES:
        wanted = processor(picture(*size), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        got = preprocess(picture(*size), spec)
        assert (np.abs(got - wanted) * np.array(processor.image_std)).max() <= 1 / 255, size
    assert not processed(image_processor_type="ViTImageProcessor").rounded


def test_older_files_name_a_feature_extractor_and_one_number() -> None:
    own = processed(feature_extractor_type="ViTFeatureExtractor", size=224, resample=2)
    assert (own.size, own.metadata.resize, own.metadata.interpolation) == ((224, 224), "stretch", "bilinear")
    own = processed(feature_extractor_type="CLIPFeatureExtractor", size=256, crop_size=224)
    assert (own.size, own.metadata.resize, own.metadata.crop_pct) == ((224, 224), "center_floor", 0.875)
    assert processed(image_processor_type="ViTImageProcessorFast", size=[48, 32]).size == (48, 32)


def test_pictures_that_are_not_scaled_are_taken_as_they_are() -> None:
    own = processed(do_resize=False)
    assert (own.size, own.metadata.resize) == (None, "stretch")


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"image_processor_type": "SiglipTilingProcessor"}, "image processor SiglipTilingProcessor"),
        ({"do_pad": True}, "step 'do_pad'"),
        ({"do_reduce_labels": True}, "step 'do_reduce_labels'"),
        ({"resample": 5}, "resampling filter 5"),
        ({"rescale_offset": True}, "offset"),
        ({"size": {"shortest_edge": 224}}, "keep their shape"),
        ({"size": {"shortest_edge": 224, "longest_edge": 500}}, "longest_edge"),
        ({"size": {"height": 20, "width": 20}, "do_center_crop": True}, "larger than the scaled picture"),
        ({"size": {"height": 35, "width": 35}, "do_center_crop": True, "crop_size": 32}, "between two pixels"),
        ({"do_resize": False, "do_center_crop": True}, "not scaled"),
        ({"auto_map": {"AutoImageProcessor": "mine.Processor"}}, "auto_map"),
        (
            {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 16}},
            "no square",
        ),
        ({"size": "large"}, "'size'"),
        ({"size": 10**12}, "'size'"),
        ({"size": {"height": -5, "width": 5}}, "'height'"),
        ({"size": [[1, 2], 3]}, "'size'"),
        ({"image_mean": ["a", 0, 0]}, "'image_mean'"),
        ({"image_mean": [0.5, 0.5]}, "other channels"),
        ({"image_std": [0, 0, 0]}, "'image_std'"),
        ({"rescale_factor": float("nan")}, "'rescale_factor'"),
        ({"resample": True}, "'resample'"),
        ({"do_resize": "yes"}, "'do_resize'"),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(config: dict[str, Any], part: str) -> None:
    with pytest.raises(ModelError, match=part):
        processed(**config)
