"""Whether MediaPipe Tasks answers with our files for apps as we do, on pictures of the model's size and photographs.

    python benchmarks/mediapipe_tasks.py RUN/artifacts/NAME.{fp32,int8}.tflite --data digits --photos PHOTOS

MediaPipe lives in an environment of its own, in ``$POCKETVIT_MEDIAPIPE`` or the user's cache folder, so that its
requirements never meet ours. It is made on first use; MediaPipe's wheel alone has 43 MB. Without ``--data`` the
pictures are random pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from export.app.make import write_app_file
from runtime import (
    Preprocessing,
    Session,
    list_pictures,
    load,
    manifest_path,
    open_image,
    softmax,
    to_pixels,
    write_artifact,
)

VERSION = "1.2.3"
FOLDER = "POCKETVIT_MEDIAPIPE"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Agreement:
    """How MediaPipe's answers agree with ours.

    Attributes:
        pictures: number of them.
        same: pictures with the same top-1.
        named: pictures whose name is that of our class.
        score: largest difference of the top-1's probability where the class is the same.
    """

    pictures: int
    same: int
    named: int
    score: float


def mediapipe_folder() -> Path:
    """Returns the folder of MediaPipe's environment, which may not exist."""
    cache = os.environ.get("XDG_CACHE_HOME")
    usual = (Path(cache) if cache else Path.home() / ".cache") / "pocketvit" / f"mediapipe-{VERSION}"
    return Path(os.environ[FOLDER]) if os.environ.get(FOLDER) else usual


def environment(folder: Path | None = None) -> Path:
    """Returns the interpreter of an environment with mediapipe, and makes it if it is not there.

    Raises:
        CalledProcessError: it cannot be made here.
    """
    folder = folder or mediapipe_folder()
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"mediapipe=={VERSION}"]
        subprocess.run(pip, check=True, capture_output=True)
        done.touch()
    return python


def answers(python: Path, model: Path, *, task: str = "classify", **images: Any) -> list[Any]:
    """Returns MediaPipe's answers: index, name and score of each picture, or the values of its embedding.

    Args:
        python: interpreter that has mediapipe.
        model: file for apps.
        task: ``classify`` or ``embed``.
        images: ``pixels``, ``(N, H, W, 3)`` uint8, or ``photos``, paths.

    Raises:
        RuntimeError: MediaPipe refuses the file or a picture; the message has its words.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job: dict[str, Any] = {"model": str(model), "task": task, "answers": str(folder / "answers.json")}
        if "pixels" in images:
            np.savez(folder / "pictures.npz", pictures=images["pixels"])
            job["pixels"] = str(folder / "pictures.npz")
        else:
            job["photos"] = [str(path) for path in images["photos"]]
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        child = Path(__file__).with_name("mediapipe_child.py")
        done = subprocess.run(
            [str(python), str(child), str(folder / "job.json")], capture_output=True, text=True, env={}, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        found: list[Any] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        return found


def agreement(session: Session, theirs: Sequence[Any], logits: npt.NDArray[np.float32]) -> Agreement:
    """Returns how MediaPipe's answers agree with our logits of the same pictures."""
    ours, names = logits.argmax(axis=1), session.artifact.class_names
    same = [own == index for own, (index, _, _) in zip(ours, theirs, strict=True)]
    named = [names[index] == name for index, name, _ in theirs]
    chances = softmax(logits)[np.arange(len(ours)), ours]
    apart = [abs(score - own) for (_, _, score), own, alike in zip(theirs, chances, same, strict=True) if alike]
    return Agreement(len(ours), sum(same), sum(named), max(apart, default=0.0))


def app_files(source: Path, folder: Path) -> list[Path]:
    """Writes the files for apps of a file, one with a float image and one with pixels."""
    made = []
    for image in ("float", "uint8"):
        path = folder / f"{source.stem}.{image}.app.tflite"
        write_artifact(path, write_app_file(source, path, pixels=image == "uint8"))
        made.append(path)
    return made


def as_rgb(pixels: Pixels) -> Pixels:
    """Returns grey pixels ``(N, H, W, 1)`` in RGB, and others as they are."""
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def pictures_of(source: Path, data: str | None, count: int) -> Pixels:
    """Returns pictures of the model's size, ``(N, H, W, C)``: test images of a dataset, or random pixels."""
    spec = load(source).artifact.preprocessing
    if data is None:
        shape = (count, spec.height, spec.width, spec.channels)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    from compress.data.load import load_data

    found = load_data(data)
    chosen = np.linspace(0, len(found.test) - 1, count).round().astype(int)
    return np.stack([to_pixels(found.images[int(i)], spec) for i in found.test[chosen]])


def sampled_pixels(photo: Image.Image, spec: Preprocessing) -> Pixels:
    """Returns a photograph stretched to the model's size as MediaPipe does.

    Pixel ``x`` is mixed from the two beside ``x`` times the ratio of the widths, likewise along the height; all others
    have no part in it.
    """
    x, y = photo.width / spec.width, photo.height / spec.height
    left, top = 0.5 - 0.5 * x, 0.5 - 0.5 * y  # Pillow's pixels lie at their centres
    box = (left, top, left + photo.width, top + photo.height)
    size = (spec.width, spec.height)
    return np.asarray(photo.convert("RGB").transform(size, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR))


def photo_lines(python: Path, model: Path, photos: list[Path]) -> list[str]:
    """Returns what MediaPipe and we answer to the same photographs, prepared in different ways."""
    session, theirs = load(model), answers(python, model, photos=photos)
    spec = session.artifact.preprocessing
    ready = np.stack([to_pixels(open_image(path), spec) for path in photos])
    sampled = np.stack([sampled_pixels(open_image(path), spec) for path in photos])
    lines = []
    for what, pixels, other in (
        (f"the photographs themselves; we prepare them as for training ({spec.resize})", ready, theirs),
        ("the photographs themselves; we take the pixels that it takes", sampled, theirs),
        ("what we prepared as for training", ready, answers(python, model, pixels=ready)),
    ):
        found = agreement(session, other, np.stack([own.logits for own in session.predict_pixels(pixels)]))
        lines.append(f"| {model.name} | {what} | {found.same} of {found.pictures} | {found.score:.1e} |")
    return lines


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="exported .tflite files with their manifests")
    parser.add_argument("--data", help="dataset whose test pictures are shown, such as digits")
    parser.add_argument("--images", type=int, default=100, help="number of them")
    parser.add_argument("--photos", type=Path, help="folder of photographs")
    given = parser.parse_args()
    python = environment()
    print(
        "| file | image | grey model | normalised by | MediaPipe: same top-1 as ours | names right "
        "| largest difference of the score | ours: same top-1 as the plain file |\n|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        models = []
        for source in given.files:
            own_pixels = pictures_of(source, given.data, given.images)
            plain = [own.index for own in load(source).predict_pixels(own_pixels)]
            pixels = as_rgb(own_pixels)
            for path in app_files(source, Path(scratch)):
                session, theirs = load(path), answers(python, path, pixels=pixels)
                app = session.artifact.app
                assert app is not None
                logits = np.stack([own.logits for own in session.predict_pixels(pixels)])
                found, alike = agreement(session, theirs, logits), int((logits.argmax(axis=1) == plain).sum())
                print(
                    f"| {source.name} | {session.artifact.input.dtype} | {'yes' if app.channels == 1 else 'no'} "
                    f"| {app.normalised_by} | {found.same} of {found.pictures} | {found.named} of {found.pictures} "
                    f"| {found.score:.1e} | {alike} of {found.pictures} |",
                    flush=True,
                )
                models.append(path)
        if given.photos is not None:
            photos = [own.path for own in list_pictures(given.photos).files][: given.images]
            print("\n| file | MediaPipe sees | same top-1 | largest difference of the score |\n|---|---|---|---|")
            for path in models[::2]:
                print("\n".join(photo_lines(python, path, photos)), flush=True)
        for path in models:
            manifest_path(path).unlink()


if __name__ == "__main__":
    main()
