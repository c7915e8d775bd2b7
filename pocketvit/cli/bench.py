"""The command ``bench``."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from device_bench.metrics import METRICS
from device_bench.targets import TARGETS
from runtime import DataError, UnsupportedTargetError, encode

from .output import fail, print_json, say

if TYPE_CHECKING:
    from device_bench.targets.base import Device
    from device_bench.targets.fleet import Fleet

Threads = Annotated[int, typer.Option(help="Threads of the engine; a target of the inventory may have its own.")]
Inventory = Annotated[
    Path | None,
    typer.Option("--inventory", help="Your targets; by default ./targets.toml or that in ~/.config/pocketvit."),
]


def bench(
    files: Annotated[list[Path], typer.Argument(help=".tflite and .onnx files; they are timed in turns.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Where to run: {', '.join(TARGETS)}, names of the inventory, or all. "
            "Several side by side: with commas, or repeated. By default cpu."
        ),
    ] = None,
    inventory: Inventory = None,
    threads: Threads = 1,
    samples: Annotated[int | None, typer.Option(help="Exactly so many timed runs of each file.")] = None,
    seconds: Annotated[float, typer.Option(help="Measuring time for each file, seconds.")] = 5.0,
    throughput: Annotated[float, typer.Option(help="Seconds for each file's images per second; 0 for none.")] = 2.0,
    energy: Annotated[bool, typer.Option("--energy", help="Measure or estimate the energy of an image.")] = False,
    country: Annotated[str | None, typer.Option(help="Whose grid CO2 is of, ISO 3166 alpha-3, such as DEU.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Labelled images to answer: a run's bench/test-images.npz.")
    ] = None,
    accuracy: Annotated[
        int | None, typer.Option(help="Answer only so many of --images, as many of each class as can be.")
    ] = None,
    bootstrap: Annotated[
        bool, typer.Option("--bootstrap", help="Install what a device lacks into an environment of its own there.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="A file that gives no sign for so long hangs, seconds.")] = 120.0,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Keep every raw value here; - prints it. A folder, such as RUN/bench, for several targets."
        ),
    ] = None,
) -> None:
    """Measure files in turns: latency, start, throughput, memory, GFLOP/s, and, where asked, energy and accuracy.

    A file that cannot be measured costs its own row, a device its own column: exit code 1, or 2 where nothing could.
    """
    from device_bench.documents.measurement import Sampling
    from device_bench.documents.request import BenchRequest, check_files
    from device_bench.energy.carbon import find_grid
    from device_bench.targets.fleet import bench_fleet
    from device_bench.targets.inventory import read_inventory, resolve
    from pocketvit.jobs.distinct_names import distinct_names

    from .console import shown

    devices = resolve(target or ["cpu"], read_inventory(inventory))
    _check_place(json_file, devices)
    if country is not None:
        find_grid(country)
    with distinct_names(files) as named, _chosen(images, accuracy) as answered, shown() as progress:
        request = BenchRequest(
            files=named,
            threads=threads,
            sampling=Sampling(seconds=seconds) if samples is None else Sampling.exactly(samples),
            throughput_s=throughput,
            energy=energy,
            country=country,
            images=answered,
            timeout_s=timeout,
            bootstrap=bootstrap,
        )
        check_files(request)
        own = [device.label for device in devices if device.target.local]
        if own and len(devices) > 1:
            say(f"First {' and '.join(own)} alone, since other work here would be in those times; then all others.")
        fleet = bench_fleet(devices, request, progress)
    _tell(fleet, devices, json_file)


bench.__doc__ = f"{bench.__doc__}\n\n    Metrics: {', '.join(METRICS)}."


def _tell(fleet: "Fleet", devices: Sequence["Device"], json_file: Path | None) -> None:
    """Prints and keeps what was measured, and ends the program where something was not."""
    from pocketvit.cli.tables.fleet import bench_tables

    from .console import stdout_console

    if json_file is not None and str(json_file) == "-":
        _print_documents(fleet, _several(devices))
    else:
        if json_file is not None:
            _keep(fleet, devices, json_file)
        if not fleet.empty:
            stdout_console().print(bench_tables(fleet))
    missing = [f"{failure.target}: {failure.what}" for failure in fleet.failures]
    for result in fleet.results:
        where = f" on {result.target}" if _several(devices) else ""
        if fleet.empty:
            missing += [f"{failure.file} was not measured{where}: {failure.what}" for failure in result.failures]
        elif result.failures:
            missing.append(f"{', '.join(failure.file for failure in result.failures)}{where}.")
    if fleet.empty:
        fail(" ".join(missing), 2)
    if missing:
        fail(f"Not measured: {' '.join(missing)}", 1)


def _print_documents(fleet: "Fleet", several: bool) -> None:
    if several or not fleet.results:
        print_json("pocketvit.fleet", {"results": encode(fleet.results), "failures": encode(fleet.failures)})
    else:
        print_json("pocketvit.bench", encode(fleet.results[0]))


def _check_place(json_file: Path | None, devices: Sequence["Device"]) -> None:
    """Refuses, before anything is measured, to write several results to one file.

    Raises:
        UnsupportedTargetError: ``json_file`` is a file, and there are several results.
    """
    if json_file is None or str(json_file) == "-" or not _several(devices) or json_file.is_dir():
        return
    if json_file.exists() or json_file.suffix == ".json":
        raise UnsupportedTargetError(
            "Several targets give several results, which do not go into one file",
            expected="a folder after --json, such as results or RUN/bench",
            got=json_file,
        )


def _several(devices: Sequence["Device"]) -> bool:
    """Whether more than one result may come: of several devices, or of several backends of one."""
    return len(devices) > 1 or any(len(device.backends) > 1 for device in devices)


def _keep(fleet: "Fleet", devices: Sequence["Device"], place: Path) -> None:
    from device_bench.documents.results import BENCH_DOCUMENT
    from device_bench.targets.fleet_folder import write_fleet

    if _several(devices) or place.is_dir():
        paths = write_fleet(place, fleet)
        say(f"Kept in {', '.join(map(str, paths))}")
    elif not fleet.empty:
        BENCH_DOCUMENT.write(place, fleet.results[0])


@contextmanager
def _chosen(images: Path | None, count: int | None) -> Iterator[Path | None]:
    """Yields the file of labelled images to answer, which is a smaller one for as long as it is needed.

    Raises:
        DataError: there are no images to choose from, or not so many.
    """
    if count is None:
        yield images
        return
    if images is None:
        raise DataError(
            "--accuracy says how many images to answer, and there are none", fix="Name their file with --images"
        )
    from device_bench.metrics.accuracy import read_test_images, write_test_images
    from device_bench.metrics.chosen_images import choose_images

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chosen.npz"
        write_test_images(path, choose_images(read_test_images(images), count))
        yield path
