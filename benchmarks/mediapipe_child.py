"""Classifies or embeds pictures with MediaPipe Tasks, in an environment that has mediapipe and nothing of ours.

    python mediapipe_child.py JOB.json

The job names ``model``, ``task`` (``classify`` or ``embed``), ``pixels`` (an .npz file with ``pictures``, ``(N, H, W,
3)`` uint8) or ``photos`` (paths), and ``answers``, the JSON file to write: for each picture its index, name and score,
or its values.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision


def main(job: dict[str, Any]) -> None:
    """Answers every picture of a job."""
    base = BaseOptions(model_asset_path=job["model"])
    if job["task"] == "classify":
        classifier = vision.ImageClassifier.create_from_options(vision.ImageClassifierOptions(base_options=base))
        answer: Callable[[mp.Image], Any] = lambda image: _category(classifier.classify(image))  # noqa: E731
    else:
        embedder = vision.ImageEmbedder.create_from_options(vision.ImageEmbedderOptions(base_options=base))
        answer = lambda image: np.asarray(embedder.embed(image).embeddings[0].embedding).tolist()  # noqa: E731
    Path(job["answers"]).write_text(json.dumps([answer(image) for image in _images(job)]), encoding="utf-8")


def _category(result: Any) -> list[Any]:
    best = result.classifications[0].categories[0]
    return [best.index, best.category_name, best.score]


def _images(job: dict[str, Any]) -> Iterator[mp.Image]:
    if "photos" in job:
        for path in job["photos"]:
            yield mp.Image.create_from_file(path)
        return
    for picture in np.load(job["pixels"])["pictures"]:
        yield mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(picture))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
