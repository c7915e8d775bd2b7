"""The command ``bench``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from device_bench.documents.measurement import LATENCY_S, THROUGHPUT_S
from device_bench.metrics import METRICS
from device_bench.targets import TARGETS
from pocketvit.output import fail, print_json, say
from runtime import DataError, UnsupportedTargetError, encode
from runtime.worker.parent import SILENCE_S

from .common import Country, InventoryOption, Seconds, flag

if TYPE_CHECKING:
    from device_bench.targets.base import Device
    from device_bench.targets.fleet import Fleet


def bench(
    *files: Annotated[
        Path,
        Parameter(
            required=True,
            help=".tflite, .onnx and .pt2 files; they are timed in turns. "
            f"Metrics, each where the target and the options allow it: {', '.join(METRICS)}.",
        ),
    ],
    target: Annotated[
        list[str] | None,
        Parameter(
            help=f"Where to run: {', '.join(TARGETS)}, names of the inventory, or all. "
            "Several targets: with commas, or repeated. By default cpu."
        ),
    ] = None,
    inventory: InventoryOption = None,
    threads: Annotated[
        int, Parameter(help="Threads of the engine; a target of the inventory may have another number.")
    ] = 1,
    samples: Annotated[int | None, Parameter(help="Exactly so many timed runs of each file.")] = None,
    seconds: Seconds = LATENCY_S,
    throughput: Annotated[
        float, Parameter(help="Seconds for each file's images per second; 0 measures none.")
    ] = THROUGHPUT_S,
    energy: Annotated[bool, flag("Measure or estimate the energy of an image.")] = False,
    country: Country = None,
    images: Annotated[
        Path | None, Parameter(help="Labelled images to classify: a run's bench/test-images.npz.")
    ] = None,
    accuracy: Annotated[
        int | None, Parameter(help="Classify only so many of --images, as equally many of each class as possible.")
    ] = None,
    bootstrap: Annotated[bool, flag("Install what a device lacks into a virtual environment there.")] = False,
    timeout: Annotated[
        float,
        Parameter(help="A file without a sign of life for so long hangs, and a bench in browsers ends, seconds."),
    ] = SILENCE_S,
    web_devices: Annotated[
        int, Parameter(name="--devices", help="Devices that the target web waits for; with web:chromium, browsers.")
    ] = 1,
    web_https: Annotated[
        bool,
        flag("Serve the target web over https, with a certificate of its own: phones then have WebGPU and threads."),
    ] = False,
    web_host: Annotated[
        str, Parameter(help="Name or address of this machine for other devices; by default found.")
    ] = "",
    web_port: Annotated[int, Parameter(help="Port of the target web; by default any free one.")] = 0,
    json_file: Annotated[
        Path | None,
        Parameter(
            name="--json",
            allow_leading_hyphen=True,
            help="Keep every raw value in this file; - prints it. A folder, such as RUN/bench, for several targets.",
        ),
    ] = None,
) -> None:
    """Measure files in turns: latency, start, throughput, memory, GFLOP/s, and optionally energy and accuracy.

    A file that cannot be measured costs its row, and a device its column: exit code 1, or 2 where nothing was measured.
    """
    from device_bench.documents.measurement import Sampling
    from device_bench.documents.request import BenchRequest, WebOptions, check_files
    from device_bench.energy.carbon import find_grid
    from device_bench.targets.fleet import bench_fleet
    from device_bench.targets.inventory import read_inventory, resolve
    from pocketvit.jobs.distinct_names import distinct_names
    from pocketvit.progress import show_progress

    devices = resolve(target or ["cpu"], read_inventory(inventory))
    _check_place(json_file, devices)
    if country is not None:
        find_grid(country)
    with distinct_names(files) as named, _chosen(images, accuracy) as chosen, show_progress() as progress:
        request = BenchRequest(
            files=named,
            threads=threads,
            sampling=Sampling(seconds=seconds) if samples is None else Sampling.exactly(samples),
            throughput_s=throughput,
            energy=energy,
            country=country,
            images=chosen,
            timeout_s=timeout,
            bootstrap=bootstrap,
            web=WebOptions(web_devices, web_https, web_host, web_port),
        )
        check_files(request)
        own = [device.label for device in devices if device.target.local]
        if own and len(devices) > 1:
            say(f"First {' and '.join(own)} alone, since other work here would be in those times; then all others.")
        fleet = bench_fleet(devices, request, progress)
    _show(fleet, devices, json_file)


def _show(fleet: Fleet, devices: Sequence[Device], json_file: Path | None) -> None:
    """Prints and keeps what was measured, and ends the program where something was not."""
    from pocketvit.cli.tables.fleet import bench_tables
    from pocketvit.console import stdout_console

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
    if fleet.empty and not missing:
        fail("No device opened the page, so nothing was measured.", 1)
    if fleet.empty:
        fail(" ".join(missing), 2)
    if missing:
        fail(f"Not measured: {' '.join(missing)}", 1)


def _print_documents(fleet: Fleet, several: bool) -> None:
    if several or not fleet.results:
        print_json("pocketvit.fleet", {"results": encode(fleet.results), "failures": encode(fleet.failures)})
    else:
        print_json("pocketvit.bench", encode(fleet.results[0]))


def _check_place(json_file: Path | None, devices: Sequence[Device]) -> None:
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


def _several(devices: Sequence[Device]) -> bool:
    """Whether more than one result may come: of several devices, of several backends of one, or of who comes."""
    return len(devices) > 1 or any(len(device.backends) > 1 or device.target.gathers for device in devices)


def _keep(fleet: Fleet, devices: Sequence[Device], place: Path) -> None:
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
            "--accuracy is a number of images to classify, and there are none", fix="Name their file with --images"
        )
    from device_bench.metrics.accuracy import read_test_images, write_test_images
    from device_bench.metrics.chosen_images import choose_images

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chosen.npz"
        write_test_images(path, choose_images(read_test_images(images), count))
        yield path
