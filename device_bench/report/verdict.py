"""The result of a run: headline figures, and one paragraph computed from its numbers."""

from __future__ import annotations

from device_bench import format
from device_bench.metrics.base import REFERENCE
from device_bench.report.render.document import Tile

from .rows import SummaryRow
from .summary import RunSummary


def verdict(summary: RunSummary) -> str:
    """Returns the result of a run in a few sentences, from measured figures alone."""
    sentences = [
        _size(summary),
        _accuracy(summary),
        _likeness(summary),
        _best_file(summary),
        _refused(summary),
        _failures(summary),
    ]
    return " ".join(sentence for sentence in sentences if sentence) or "This run has no figures to compare yet."


def _size(summary: RunSummary) -> str | None:
    before, after = summary.row("baseline"), summary.row("sliced")
    if not before or not after or before.params is None or after.params is None:
        return None
    text = (
        f"The sliced model has {format.count(after.params)} parameters where the baseline has "
        f"{format.count(before.params)} ({format.change(before.params, after.params)})"
    )
    if before.macs is not None and after.macs is not None:
        text += (
            f" and needs {format.count(after.macs)} multiply-accumulates per image instead of "
            f"{format.count(before.macs)} ({format.change(before.macs, after.macs)})"
        )
    return text + "."


def _accuracy(summary: RunSummary) -> str | None:
    before, after = summary.row("baseline"), summary.row("sliced")
    if not before or not after or before.top1 is None or after.top1 is None:
        return None
    images = format.whole(after.top1_images)
    difference = format.points(before.top1, after.top1)
    return (
        f"Its top-1 on {images} test images is {format.percent(after.top1)}, "
        f"the baseline's {format.percent(before.top1)} ({difference})."
    )


def _likeness(summary: RunSummary) -> str | None:
    """Describes how the sliced model follows the whole one."""
    after = summary.row("sliced")
    if after is not None and after.whole_agreement is None and after.whole_cosine is not None:
        return _vectors(after)
    if after is None or after.whole_agreement is None:
        return None
    text = (
        f"On {format.whole(after.whole_images)} test images it gives the whole model's top-1 class in "
        f"{format.percent(after.whole_agreement)}"
    )
    if after.whole_cosine is not None:
        text += f", and the mean cosine of what their classifiers read is {format.cosine(after.whole_cosine)}"
    return text + "."


def _vectors(row: SummaryRow) -> str:
    """Describes how the vectors of the sliced model follow those of the whole one."""
    text = (
        f"On {format.whole(row.whole_images)} test images the mean cosine of its vectors with the whole model's is "
        f"{format.cosine(row.whole_cosine)}"
    )
    if row.whole_neighbours is not None:
        text += (
            f", and for {format.percent(row.whole_neighbours)} of the vectors the nearest neighbour in an index of the "
            "whole model's is among the ten nearest to its own"
        )
    if row.own_neighbours is not None:
        text += f"; in an index of its own vectors that is so for {format.percent(row.own_neighbours)}"
    return text + "."


def _best_file(summary: RunSummary) -> str | None:
    """Describes the fastest file or, without latencies, the smallest."""
    files = [row for row in summary.rows if row.precision is not None and not row.name.startswith("baseline.")]
    target = summary.targets[0] if summary.targets else None
    timed = [(timing.median_s.value, row) for row in files if target and (timing := row.on(target)) and timing.median_s]
    if timed and target:
        return _fastest(summary, min(timed, key=lambda pair: pair[0])[1], target)
    sized = [(row.size_bytes, row) for row in files if row.size_bytes is not None]
    if not sized:
        return None
    row = min(sized, key=lambda pair: pair[0])[1]
    return f"The smallest file, {row.name}, takes {_size_of(summary, row)}{_agreement(row)}. No latency was measured."


def _fastest(summary: RunSummary, row: SummaryRow, target: str) -> str:
    timing = row.on(target)
    if timing is None or timing.median_s is None:
        return ""
    threads = "1 thread" if timing.threads == 1 else f"{timing.threads} threads"
    text = (
        f"The fastest file on {target} with {threads}, {row.name}, takes {format.seconds(timing.median_s.value)} "
        f"per {'image' if timing.batch == 1 else f'batch of {timing.batch}'} (median) and {_size_of(summary, row)}"
        f"{_agreement(row)}."
    )
    ratio = timing.speedup
    if ratio is None:
        return text + f" No speed-up is given because {REFERENCE} was not measured with it."
    if ratio.low <= 1 <= ratio.high:
        return text + f" That is no measurable difference to {REFERENCE}: {format.times_interval(ratio)}."
    how = "faster than" if ratio.value > 1 else "the speed of"
    slower = "" if ratio.value > 1 else ", so it is slower"
    return text + f" That is {format.times_interval(ratio)} {how} {REFERENCE}, measured turn by turn with it{slower}."


def _size_of(summary: RunSummary, row: SummaryRow) -> str:
    baseline = summary.row("baseline")
    text = f"{format.size(row.size_bytes)} on disk"
    if baseline and baseline.size_bytes:
        text += f" ({format.change(baseline.size_bytes, row.size_bytes)} against the baseline's weights)"
    return text


def _agreement(row: SummaryRow) -> str:
    if row.cosine is not None:
        return f"; the mean cosine of its vectors with those of the torch model is {format.cosine(row.cosine)}"
    if row.agreement is None:
        return ""
    return (
        f"; it gives the same top-1 class as the torch model it came from on {format.percent(row.agreement)} of images"
    )


def _refused(summary: RunSummary) -> str | None:
    names = [artifact.file for artifact in summary.refused]
    return f"{format.listed(names)} did not pass {'its' if len(names) == 1 else 'their'} check." if names else None


def _failures(summary: RunSummary) -> str | None:
    names = sorted({failure.file for _, failure in summary.failures})
    return f"{format.listed(names)} could not be measured." if names else None


def tiles(summary: RunSummary) -> tuple[Tile, ...]:
    """Returns the headline figures of a run."""
    before, after = summary.row("baseline"), summary.row("sliced")
    found: list[tuple[str, str, str]] = []
    if before and after:
        found = [
            ("Parameters", format.change(before.params, after.params), _arrow(before.params, after.params)),
            ("Multiply-accumulates", format.change(before.macs, after.macs), _arrow(before.macs, after.macs)),
            (
                "Top-1",
                format.points(before.top1, after.top1),
                f"{format.percent(before.top1)} → {format.percent(after.top1)}",
            ),
        ]
        if after.whole_agreement is None and after.whole_cosine is not None:
            kept = f"neighbours {format.percent(after.whole_neighbours)}" if after.whole_neighbours is not None else ""
            found.append(("Cosine with the whole model", format.cosine(after.whole_cosine), kept))
        elif after.top1 is None:
            cosine = f"cosine {format.cosine(after.whole_cosine)}" if after.whole_cosine is not None else ""
            found.append(("Agrees with the whole model", format.percent(after.whole_agreement), cosine))
    fastest = _best_speedup(summary)
    if fastest:
        row, text = fastest
        found.append(("Best speed-up", text, row.name))
    return tuple(Tile(*own) for own in [*found, *_energy_tile(summary)] if own[1] != format.MISSING)


def _arrow(before: int | None, after: int | None) -> str:
    return f"{format.count(before)} → {format.count(after)}"


def _best_speedup(summary: RunSummary) -> tuple[SummaryRow, str] | None:
    if not summary.targets:
        return None
    found = [
        (timing.speedup, row)
        for row in summary.rows
        if not row.name.startswith("baseline.") and (timing := row.on(summary.targets[0])) and timing.speedup
    ]
    if not found:
        return None
    ratio, row = max(found, key=lambda pair: pair[0].value)
    return row, format.times_interval(ratio).split(" ")[0]


def _energy_tile(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Returns the least energy of an image and the reference's, if both are known in the same way."""
    if not summary.targets:
        return []
    timed = [(row, timing) for row in summary.rows if (timing := row.on(summary.targets[0]))]
    known = [(row, t, t.joules_per_image) for row, t in timed if t.joules_per_image is not None]
    reference = next(((t, joules) for row, t, joules in known if row.name == REFERENCE), None)
    own = [one for one in known if not one[0].name.startswith("baseline.")]
    if reference is None or not own:
        return []
    row, timing, joules = min(own, key=lambda one: one[2])
    if timing.energy_tier != reference[0].energy_tier:
        return []
    values = f"{format.joules(reference[1])} → {format.joules(joules)}"
    caption = f"Energy per image, {timing.energy_tier}"
    return [(caption, format.change(reference[1], joules), f"{values}, {row.name}")]
