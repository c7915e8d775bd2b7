"""A classifier of timm without a plan, fine-tuned a little, and the command that exports it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from pocketvit.pipeline.run import export
from pocketvit.settings import RunSettings
from runtime import Artifact

NAME = "test_efficientnet"
SIDE = 32


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of ten classes, disturbed by noise, in the wrapper that timm's training script writes."""
    torch.manual_seed(3)
    network = timm.create_model(NAME, num_classes=10)
    with torch.no_grad():
        for name, value in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.add_(torch.rand(value.shape))
        for value in network.parameters():
            value.add_(0.05 * torch.randn(value.shape))
    path = tmp_path_factory.mktemp("weights") / "model_best.pth.tar"
    torch.save({"arch": NAME, "epoch": 3, "state_dict": network.state_dict()}, path)
    return path


@pytest.fixture
def exported(checkpoint: Path, tmp_path: Path) -> Callable[..., list[Artifact]]:
    """Exports the model in some kinds of file to ``tmp_path``."""

    def call(*formats: str, **changed: object) -> list[Artifact]:
        options: dict[str, Any] = {
            "model": NAME,
            "checkpoint": str(checkpoint),
            "img_size": SIDE,
            "data": "digits",
            "verify_images": 32,
        }
        settings = RunSettings(
            **options | {"kinds": formats, "threads": 1, "min_agreement": 0.0, "calibration_images": 32} | changed
        )
        return export(settings, tmp_path / "run")

    return call
