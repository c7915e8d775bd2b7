"""The measurements of a run: every exported file in turns, its top-1 on test images, and the times of its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compress.data.dataset import Dataset
from compress.data.splits import stratified
from compress.model.folder import Task
from device_bench.documents.measurement import THROUGHPUT_S, Sampling
from device_bench.documents.op_times import OpTimes, TimeRow, read_times, times_path, write_times
from device_bench.documents.results import BENCH_DOCUMENT
from device_bench.energy.carbon import find_grid
from device_bench.metrics.accuracy import TestImages, write_test_images
from device_bench.targets.bench import bench
from export.inspect.inspection import inspect_file
from runtime import ArtifactError, PocketVitError, Progress, check_fields, sha256_of, silent, to_pixels
from runtime.formats import model_files

from .runfolder import RunFolder
from .stage import stage


@dataclass(frozen=True)
class BenchSettings:
    """What to measure of every exported file.

    Attributes:
        sampling: measuring time of latency.
        throughput_s: measuring time of each file's throughput, s; 0 does not measure it.
        energy: measure or estimate the energy of an image.
        country: country whose grid CO2 is estimated for, ISO 3166 alpha-3.
        images: labelled test images that every file classifies; 0 classifies none.
        times_s: measuring time of the parts of each file, s; 0 does not measure them.

    Raises:
        MeasurementError: there is no such country, or its package is not installed.
    """

    sampling: Sampling = field(default_factory=Sampling)
    throughput_s: float = THROUGHPUT_S
    energy: bool = True
    country: str | None = None
    images: int = 1000
    times_s: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.country is not None:
            find_grid(self.country)


def bench_settings(seconds: float, energy: bool = True, country: str | None = None) -> BenchSettings:
    """Returns settings that spend about ``seconds`` on each file's latency, and less on each other metric.

    Raises:
        MeasurementError: there is no such country, or the time is negative.
    """
    return BenchSettings(Sampling(seconds=seconds), 0.4 * seconds, energy, country, times_s=0.8 * seconds)


def bench_stage(
    folder: RunFolder, data: Dataset, task: Task, settings: BenchSettings, progress: Progress = silent
) -> None:
    """Measures every exported file on this machine's CPU, interleaved, into ``bench/``.

    Raises:
        MeasurementError: no file could be measured.
        StorageError: there is no space, or no permission to write.
    """
    files = model_files(folder.artifacts)
    path = folder.bench("cpu")
    if not files:  # every one was refused
        return
    if not _measured(path, files):
        with stage(folder, "bench"):
            images = None
            if settings.images and task.trained and data.labelled:
                images = path.parent / "test-images.npz"
                write_test_images(images, packed(data, task, settings.images))
            result = bench(
                files,
                "cpu",
                sampling=settings.sampling,
                throughput_s=settings.throughput_s,
                energy=settings.energy,
                country=settings.country,
                images=images,
                progress=progress,
            )
            BENCH_DOCUMENT.write(path, result)
    if settings.times_s:
        with stage(folder, "times"):
            for file in files:
                _times(path.parent, file, settings.times_s, progress)


def packed(data: Dataset, task: Task, count: int) -> TestImages:
    """Returns ``count`` test images as pixels of the model's input size, which suit any target.

    As near as can be, every class gives the same share of its images, so that their top-1 is that of all of them.
    """
    chosen = np.sort(stratified(data.labels, data.test, count, np.random.default_rng(0)))
    pictures = np.stack([to_pixels(data.images[index], task.preprocessing) for index in chosen])
    return TestImages(pictures, data.labels[chosen].astype(np.int64), data.name, "test", data.class_names)


def _measured(path: Path, files: list[Path]) -> bool:
    """Whether exactly these files were measured; failed ones are tried again."""
    try:
        return {file.sha256 for file in BENCH_DOCUMENT.read(path).files} == {sha256_of(file) for file in files}
    except ArtifactError:
        return False


def _times(folder: Path, file: Path, seconds: float, progress: Progress) -> None:
    """Measures the times of a file's parts; a file that cannot be divided has none."""
    sha256 = sha256_of(file)
    try:
        if read_times(times_path(folder, file.name)).sha256 == sha256:
            return
    except ArtifactError:
        pass
    try:
        times = inspect_file(file, budget_s=seconds, progress=progress).times
    except PocketVitError:  # the bench reports it, since it fails there as well
        return
    if times is not None and times.rows:
        rows = tuple(TimeRow(row.what, row.seconds) for row in times.rows)
        write_times(
            folder, OpTimes(file.name, sha256, times.by, rows, times.whole_s, times.runs, times.threads, times.how)
        )
