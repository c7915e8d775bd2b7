"""How files answer on LiteRT's GPU path, beside the CPU and their float file.

    python benchmarks/gpu_parity.py FILE.tflite… [--count 32]

The images are the test images of the file's run where it has some, those of --images, or random ones. A GPU is used
where there is one, and else SwiftShader, the Vulkan driver that Chromium carries for machines without a GPU; it is
fetched from Debian's package where it is not installed. A driver that computes on the CPU shows whether the delegate
computes a file rightly, and nothing of time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from export.gpu.compare import file_kind, judge_gpu
from export.gpu.verify import float_file, images_to_run
from export.inspect.against.comparison_images import images_for
from pocketvit.jobs.gpu_checking import graphics_driver
from runtime import GpuParity, PocketVitError, manifest_path, read_artifact
from runtime.gpu.adapter import Adapter
from runtime.gpu.run import GpuWorker


def main() -> None:
    """Prints a table of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help=".tflite files with their manifests")
    parser.add_argument("--images", type=Path, help=".npz file with 'pictures' (uint8) or 'images' (preprocessed)")
    parser.add_argument("--count", type=int, default=32, help="images at most")
    options = parser.parse_args()
    try:
        driver, adapter = graphics_driver()
        print(f"Driver: {adapter.described}; {driver.title}\n")
        print(
            "| file | wholly on the GPU | images | cosine to the CPU, min | SQNR on the GPU | SQNR on the CPU "
            "| near ties | same top-1 on others | verdict |"
        )
        print("|---|---|---:|---:|---:|---:|---:|---:|---|")
        with GpuWorker(driver) as worker:
            for path in options.files:
                found = compared(path, options.images, options.count, worker, adapter)
                known = manifest_path(path).is_file() and float_file(path, read_artifact(path)) is not None
                print(
                    f"| {path.name} | {'yes' if found.whole else 'no'} | {found.images} | {found.cosine or 0:.6f} "
                    f"| {decibels(found.sqnr_db, known)} | {decibels(found.cpu_sqnr_db, known)} | {found.near_ties} "
                    f"| {'-' if found.top1_agreement is None else f'{found.top1_agreement:.1%}'} "
                    f"| {found.wrong or 'right'} |",
                    flush=True,
                )
    except PocketVitError as error:
        raise SystemExit(f"Error: {error}") from None


def compared(path: Path, pictures: Path | None, count: int, worker: GpuWorker, adapter: Adapter) -> GpuParity:
    """Returns the comparison of a file."""
    artifact = read_artifact(path)
    if pictures is None:
        images, _ = images_to_run(path, artifact, count)
    else:
        every = images_for(path, pictures, artifact.input.shape).values
        images = every[np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int)]
    answers = worker.answers(path, images)
    sibling = float_file(path, artifact)
    return judge_gpu(
        file_kind(artifact), answers, adapter, None if sibling is None else worker.cpu_answers(sibling, images)
    )


def decibels(value: float | None, known: bool) -> str:
    """Returns an SQNR in words."""
    return "-" if not known else "no error" if value is None else f"{value:.1f} dB"


if __name__ == "__main__":
    main()
