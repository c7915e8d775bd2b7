"""A phone that is not there: it answers adb's calls from texts, and its clock moves only when something is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from device_bench.targets.android.client import Done

RECORDED = Path(__file__).parents[2] / "recorded"
FOLDER = "/data/local/tmp/pocketvit-0123456789ab-4242"
SERIAL = "R3CN30ABCDE"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def statistics_line(values_us: Sequence[int], prefix: str = "INFO: ", percentiles: bool = True) -> str:
    """Says of ``values_us`` what stats_calculator.h says of them."""
    count, ordered = len(values_us), sorted(values_us)
    mean = sum(values_us) / count
    std = int((sum(value * value for value in values_us) / count - mean * mean) ** 0.5) if count > 1 else 0
    if ordered[0] == ordered[-1]:
        text = f"count={count} curr={values_us[-1]}" + ("(all same)" if count > 1 else "")
    else:
        text = (
            f"count={count} first={values_us[0]} curr={values_us[-1]} min={ordered[0]} max={ordered[-1]} "
            f"avg={mean:g} std={std}"
        )
    if percentiles:
        text += "".join(
            f" {name}={ordered[count * at // 100]}" for name, at in (("p5", 5), ("median", 50), ("p95", 95))
        )
    return prefix + text


def benchmark_text(
    runs_us: Sequence[int], warmup_us: Sequence[int] = (30000, 20000), *, init_us: int = 60000, extra: str = ""
) -> str:
    """Says what the program says of these runs."""
    means = [sum(values) / len(values) for values in (warmup_us, runs_us)]
    return "\n".join(
        (
            "INFO: STARTING!",
            extra,
            f"INFO: Initialized session in {init_us / 1e3:g}ms.",
            statistics_line(warmup_us),
            "",
            statistics_line(runs_us),
            "",
            f"INFO: Inference timings in us: Init: {init_us}, First inference: {warmup_us[0]}, "
            f"Warmup (avg): {means[0]:g}, Inference (avg): {means[1]:g}",
        )
    )


XNNPACK = (
    "INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.\n"
    "INFO: Memory footprint delta from the start of the tool (MB): init=40 overall=50\n"
    "INFO: Overall peak memory footprint (MB) via periodic monitoring: 60"
)

Program = Callable[["Phone", dict[str, str]], Done]


def well(phone: Phone, flags: dict[str, str]) -> Done:
    """Runs as asked, 20 ms each."""
    count = int(flags["num_runs"])
    phone.now_ns += (2 + count) * 20_000_000
    name = {"use_xnnpack": "XNNPACK", "use_gpu": "GPU", "use_nnapi": "NNAPI"}[
        next(flag for flag in flags if flag.startswith("use_"))
    ]
    warmup = (30000, 20000) if float(flags["warmup_min_secs"]) else (30000,)
    extra = XNNPACK.replace("XNNPACK", name)
    return Done(0, benchmark_text([20000 + 10 * n for n in range(count)], warmup, extra=extra), "")


@dataclass
class Keeper:
    phone: Phone
    ready: bool = True
    alive: bool = True

    def say(self, line: str) -> bool:
        return self.alive and not self.phone.cut

    def next_line(self, seconds: float) -> str | None:
        self.ready, first = False, self.ready
        return self.phone.greeting if first else None

    def end(self, seconds: float) -> Done:
        self.alive = False
        self.phone.folders.discard(FOLDER)
        return Done(0, "" if self.phone.forgetful else "gone", "")


@dataclass
class Phone:
    """One phone and the adb that reaches it; ``calls`` keeps what was asked of it."""

    devices: str = f"List of devices attached\n{SERIAL}\tdevice\n\n"
    answers: dict[str, str] = field(default_factory=dict)
    programs: dict[str, Program] = field(default_factory=dict)
    greeting: str | None = f"ready {FOLDER}"
    has_adb: bool = True
    forgetful: bool = False
    cut: bool = False
    now_ns: int = 0
    calls: list[tuple[str, ...]] = field(default_factory=list)
    pushed: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    push: Callable[[str, str], Done] = lambda local, remote: Done(0, "1 file pushed", "")

    def __post_init__(self) -> None:
        self.answers = {
            "getprop": recorded("getprop.txt"),
            "dumpsys battery": recorded("battery_unplugged.txt"),
            "dumpsys thermalservice": recorded("thermalservice.txt").replace("Status: 2", "Status: 0"),
            "settings get global low_power": "0\n",
            "cat /proc/uptime": f"{1000.0 + self.now_ns * 1e-9:.2f} 10.0\n",
            **self.answers,
        }

    def clock(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def which(self, name: str) -> str | None:
        return "/usr/bin/adb" if self.has_adb and name == "adb" else None

    def start(self, argv: Sequence[str]) -> Keeper:
        self.calls.append(tuple(argv))
        self.folders.add(FOLDER)
        return Keeper(self)

    def run(self, argv: Sequence[str], seconds: float) -> Done:
        self.calls.append(tuple(argv))
        words = list(argv)[1:]
        if words == ["devices"]:
            return Done(0, self.devices, "")
        assert words[:2] == ["-s", SERIAL]
        if self.cut:
            return Done(1, "", f"error: device '{SERIAL}' not found")
        if words[2] == "push":
            self.pushed[words[4]] = words[3]
            return self.push(words[3], words[4])
        assert words[2:5] == ["shell", "-n", "-T"]
        assert len(words) == 6
        return self.shell(words[5], seconds)

    def shell(self, line: str, seconds: float) -> Done:
        ran = re.fullmatch(rf"cd {FOLDER} && exec \./benchmark_model (.*)", line)
        if ran is None:
            text = self.answers.get(line)
            return Done(1, "", "no such thing") if text is None else Done(0, text, "")
        flags = dict(word.removeprefix("--").split("=", 1) for word in shlex.split(ran.group(1)))
        done = self.programs.get(flags["graph"], well)(self, flags)
        if done.status == 999:
            raise TimeoutError(f"adb took longer than {seconds:g} s")
        return done

    @property
    def lines(self) -> list[str]:
        """What its shell was asked."""
        return [call[-1] for call in self.calls if "shell" in call]
