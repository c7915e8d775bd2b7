"""Serves a bench to three browsers at once, round after round, with reloads and lost messages, and looks for a loss.

    python benchmarks/web_soak.py FILE... --images TEST-IMAGES.npz [--minutes 10]

A script in each page writes down every time that the page measures, before it is sent. Of the messages, some are lost
on the way to the bench and some answers on the way back; pages are loaded again at random. After each round every part
of every page must have ended, and the bench must hold exactly the times that the page wrote down for the attempt that
counts, and the answers of this machine's CPU. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chromium_pipe import Pipe, piped_browser

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.targets.web.gather import Gathering
from device_bench.targets.web.offer import OfferedFile, offer_files
from device_bench.targets.web.packages import web_packages
from device_bench.targets.web.results import web_results
from device_bench.targets.web.target import serve_bench

LOST_THERE, LOST_BACK = 0.05, 0.05
"""Shares of the messages that are lost on the way to the bench, and whose answers are lost on the way back."""

RELOAD_S = (2.0, 8.0)
ROUND_S = 240.0

LEDGER = """
const sent = window.fetch;
window.fetch = (address, options = {}) => {
  if (["times", "begin"].includes(address)) {
    const { visit, file, backend, attempt, sequence, warmup, values } = JSON.parse(options.body);
    const ledger = JSON.parse(sessionStorage.getItem("ledger") || "{}");
    const own = (ledger[`${visit} ${file} ${backend} ${attempt}`] ||= {});
    if (address === "times") own[sequence] = [warmup, values];
    sessionStorage.setItem("ledger", JSON.stringify(ledger));
  }
  return sent(address, options);
};
"""


class LossyGathering:
    """Loses some messages before the bench has them, and some answers after it.

    Args:
        gathering: what the messages are for.
        counts: counts what was lost.
    """

    def __init__(self, gathering: Gathering, counts: collections.Counter[str]) -> None:
        self._take, self._counts, self._random = gathering.take, counts, random.Random()
        self._lock = threading.Lock()

    def take(self, message: Any) -> dict[str, Any]:
        """Takes a message, or ends the connection."""
        with self._lock:
            chance = self._random.random()
            lost = "there" if chance < LOST_THERE else "back" if chance < LOST_THERE + LOST_BACK else ""
            self._counts["messages"] += 1
            self._counts[f"lost on the way {lost}"] += bool(lost)
        if lost == "there":
            raise ConnectionResetError
        answer = self._take(message)
        if lost == "back":
            raise ConnectionResetError
        return answer


def one_round(
    tabs: list[Pipe], request: BenchRequest, files: tuple[OfferedFile, ...], counts: collections.Counter[str]
) -> list[str]:
    """Serves one bench to all tabs, and returns what was lost or mixed up."""
    with serve_bench(request, files, web_packages(), local=True) as bench:
        lossy = LossyGathering(bench.gathering, counts)
        bench.gathering.take = lossy.take  # type: ignore[method-assign]
        for tab in tabs:
            tab("Page.navigate", url=bench.address)
        until, next_reload = time.monotonic() + ROUND_S, time.monotonic() + random.uniform(*RELOAD_S)
        while time.monotonic() < until and bench.gathering.counts(ROUND_S)[0] < len(tabs):
            time.sleep(0.1)
            if time.monotonic() >= next_reload:
                next_reload = time.monotonic() + random.uniform(*RELOAD_S)
                random.choice(tabs)("Page.reload")
                counts["reloads"] += 1
        ledgers = [json.loads(tab.evaluate("sessionStorage.getItem('ledger')") or "{}") for tab in tabs]
        for tab in tabs:
            tab.evaluate("sessionStorage.clear()")
        return compare(bench.gathering, request, ledgers, counts)


def compare(
    gathering: Gathering, request: BenchRequest, ledgers: list[dict[str, Any]], counts: collections.Counter[str]
) -> list[str]:
    """Returns what the bench holds otherwise than the pages wrote down."""
    faults = []
    visits = dict(gathering._visits)
    if len(visits) != len(ledgers):
        faults.append(f"{len(visits)} pages came in place of {len(ledgers)}")
    for ledger in ledgers:
        (visit_id,) = {key.split()[0] for key in ledger} or {""}
        visit = visits.pop(visit_id, None)
        if visit is None:
            faults.append("the bench does not know a page")
            continue
        counts["pages"] += 1
        counts["loads"] += visit.loads
        for (file, backend), part in visit.parts.items():
            counts["parts"] += 1
            written = ledger.get(f"{visit_id} {file} {backend} {part.attempt}", {})
            expected = {int(number): (own[0], tuple(own[1])) for number, own in written.items()}
            if part.done is None:
                faults.append(f"{visit.label}, file {file}: not done: {part.failure}")
            elif part.times != expected:
                faults.append(f"{visit.label}, file {file}: {len(part.times)} messages in place of {len(expected)}")
            elif part.verdict is None or part.verdict.wrong or part.verdict.same != part.verdict.images:
                faults.append(f"{visit.label}, file {file}: other answers: {part.verdict}")
            counts["times"] += len(part.series(warmup=False))
    results = web_results(gathering, request)
    if len({result.target for result in results}) != len(results) or any(result.failures for result in results):
        faults.append("the results have a failure, or one name twice")
    return faults


def main() -> int:
    """Runs rounds until the time is over, and prints what was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--browsers", type=int, default=3)
    arguments = parser.parse_args()
    request = BenchRequest(
        tuple(arguments.files), sampling=Sampling(min_samples=30, seconds=1.0), images=arguments.images
    )
    files, failures = offer_files(request)
    assert not failures, failures
    counts: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    start = time.monotonic()
    with ExitStack() as stack:
        tabs = [stack.enter_context(piped_browser()) for _ in range(arguments.browsers)]
        for tab in tabs:
            tab("Page.enable")
            tab("Page.addScriptToEvaluateOnNewDocument", source=LEDGER)
        while time.monotonic() - start < 60 * arguments.minutes:
            faults += one_round(tabs, request, files, counts)
            counts["rounds"] += 1
            print(f"{time.monotonic() - start:.0f} s: {dict(counts)}; {len(faults)} faults", flush=True)
    for fault in faults:
        print(f"FAULT: {fault}")
    minutes = (time.monotonic() - start) / 60
    print(
        f"{arguments.browsers} browsers, {minutes:.1f} minutes, "
        f"{counts['rounds']} rounds, {counts['reloads']} reloads, "
        f"{counts['lost on the way there']} messages and {counts['lost on the way back']} answers of "
        f"{counts['messages']} lost: {counts['parts']} parts with {counts['times']} times; "
        f"{'nothing was lost or mixed up' if not faults else f'{len(faults)} FAULTS'}"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
