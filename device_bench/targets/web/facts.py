"""What a browser tells of itself and of its device, and the name that follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from device_bench.machine.state import MachineState
from runtime import MeasurementError, check_fields

from .packages import VERSIONS

MOST_TEXT = 400
_BROWSERS = (
    ("edge", r"Edg(?:A|iOS)?/([\d.]+)"),
    ("opera", r"OPR/([\d.]+)"),
    ("samsung", r"SamsungBrowser/([\d.]+)"),
    ("firefox", r"(?:Firefox|FxiOS)/([\d.]+)"),
    ("chrome", r"(?:HeadlessChrome|Chrome|CriOS)/([\d.]+)"),
    ("safari", r"Version/([\d.]+).* Safari/"),
)
_SYSTEMS = (
    ("Android", r"Android ?([\d.]*)"),
    ("iPhone", r"iPhone OS ([\d_]+)"),
    ("iPad", r"iPad; CPU OS ([\d_]+)"),
    ("ChromeOS", r"CrOS \S+ ([\d.]+)"),
    ("Windows", r"Windows NT ([\d.]+)"),
    ("macOS", r"Mac OS X ([\d_.]+)"),
    ("Linux", r"Linux()"),
)
_TRIED = re.compile(r"(?:HeadlessChrome|Chrome)/")


@dataclass(frozen=True)
class GpuFacts:
    """The adapter that WebGPU gives a page.

    Attributes:
        vendor: its vendor.
        architecture: its family.
        description: the browser's words for it; browsers often leave it out.
        software: whether it computes on the CPU.

    Raises:
        MeasurementError: a text is too long.
    """

    vendor: str
    architecture: str
    description: str
    software: bool

    def __post_init__(self) -> None:
        _check_lengths(self.vendor, self.architecture, self.description)

    @property
    def words(self) -> str:
        """The adapter in words."""
        found = " ".join(word for word in (self.vendor, self.architecture, self.description) if word)
        return f"{found or 'unnamed'}{', which computes on the CPU' if self.software else ''}"


@dataclass(frozen=True)
class BrowserFacts:
    """What a browser tells of itself and of its device; none of it can be checked.

    Attributes:
        user_agent: the browser's own words.
        name: name that the address of the page asks for; empty without one.
        model: model of the device; only some browsers tell it, and only over https or from localhost.
        platform: operating system; empty where the browser does not tell it.
        cores: logical cores; null where the browser does not tell them.
        memory_gib: memory rounded down, at most 8 in most browsers, GiB; null where the browser does not tell it.
        secure: whether the page is a secure context, without which there is no WebGPU.
        isolated: whether the page is isolated from others, without which there are no threads.
        relaxed_simd: whether WebAssembly has relaxed SIMD.
        gpu: the adapter of WebGPU; null without one.

    Raises:
        MeasurementError: a value is impossible.
    """

    user_agent: str
    name: str
    model: str
    platform: str
    cores: int | None
    memory_gib: float | None
    secure: bool
    isolated: bool
    relaxed_simd: bool
    gpu: GpuFacts | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        _check_lengths(self.user_agent, self.name, self.model, self.platform)
        if self.cores is not None and not 1 <= self.cores <= 4096:
            raise MeasurementError("The number of cores is impossible", got=self.cores)
        if self.memory_gib is not None and not 0 < self.memory_gib <= 65536:
            raise MeasurementError("The memory is impossible", got=self.memory_gib)

    @property
    def browser(self) -> tuple[str, str]:
        """The browser's name and version, as its user agent tells them."""
        for name, pattern in _BROWSERS:
            if found := re.search(pattern, self.user_agent):
                return name, found.group(1)
        return "browser", ""

    @property
    def system(self) -> str:
        """The operating system, as its user agent tells it."""
        for name, pattern in _SYSTEMS:
            if found := re.search(pattern, self.user_agent):
                return f"{name} {found.group(1).replace('_', '.')}".strip()
        return self.platform or "unknown system"

    @property
    def slug(self) -> str:
        """A name of the device and its browser for file names, such as ``pixel-8-chrome``."""
        if self.name:
            return _slug(self.name)
        device = self.model or self.system.partition(" ")[0]
        return _slug(f"{device} {self.browser[0]}")

    @property
    def tried(self) -> bool:
        """Whether browsers of this kind were tried by PocketViT's authors."""
        return _TRIED.search(self.user_agent) is not None

    @property
    def words(self) -> tuple[str, ...]:
        """Sentences on the device and on what its browser can do."""
        browser, version = self.browser
        cores = f"{self.cores} logical cores" if self.cores else "an unknown number of cores"
        memory = f", {self.memory_gib:g} GiB of memory or more" if self.memory_gib else ""
        found = [
            f"Browser: {browser} {version} on {self.model or self.system}, {cores}{memory}. It says: {self.user_agent}",
            f"WebGPU adapter: {self.gpu.words}." if self.gpu else "There is no WebGPU.",
            f"The page was {'a' if self.secure else 'no'} secure context and {'' if self.isolated else 'not '}isolated"
            f"{'' if self.isolated else ', so there was one thread'}.",
        ]
        if not self.tried:
            found.append("PocketViT's authors have not tried this browser: look at its figures with care.")
        return tuple(found)

    def machine(self) -> MachineState:
        """Returns the state of the device, as far as its browser tells it."""
        name, version = self.browser
        return MachineState(
            board=self.model or None,
            cpu_model=None,
            logical_cores=self.cores,
            governor=None,
            clocks_hz=None,
            temperature_c=None,
            load_average=None,
            os=self.system,
            architecture=None,
            python=None,
            versions={**VERSIONS, name: version or "unknown"},
        )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "device"


def _check_lengths(*texts: str) -> None:
    for text in texts:
        if len(text) > MOST_TEXT or any(ord(letter) < 32 for letter in text):
            raise MeasurementError("A text of the browser is too long or has control characters", got=len(text))
