import json

import pytest

from device_bench.documents.search_log import Removal, Step, StepLog, TreeLog, actions, read_search
from device_bench.report.plots.search import FAINT, kinds, nodes, unit_name
from runtime import ArtifactError
from tests.device_bench.searches import (
    BRANCH,
    EMBED,
    IMAGES,
    MLP,
    QK,
    ROUNDS,
    TOTAL,
    look,
    tree,
    write_lines,
    write_rounds,
    write_steps,
)


def test_rounds_are_read_with_their_counts_and_choices(run):
    write_rounds(run)
    log = read_search(run)
    assert isinstance(log, TreeLog)
    assert (log.unit, log.total) == ("params", TOTAL)
    first, second = log.rounds
    assert (first.number, len(first.looks), first.branched, first.repeats) == (1, 5, 2, 1)
    assert first.images == IMAGES
    assert first.work == 4 * IMAGES + 25 + 3 * 2 * IMAGES
    assert first.chosen is first.looks[3]
    assert actions(first.chosen.path) == "mlp 4, embed"
    assert second.chosen is second.looks[-1]
    assert second.chosen.verdict == "met"


def test_the_choice_is_never_a_root_nor_an_upper_bound_and_the_first_of_equals(run):
    write_lines(
        run / "search" / "iteration-01" / "journal.jsonl",
        tree(
            look([], TOTAL, 50),
            BRANCH,
            look([MLP], int(0.9 * TOTAL), 10),
            look([EMBED], int(0.9 * TOTAL), 10),
            look([("v", 1)], int(0.5 * TOTAL), 49, images=25),
        ),
    )
    (own,) = read_search(run).rounds
    assert own.chosen is own.looks[1]


def test_a_search_along_one_path_chooses_its_end(run):
    header, *_ = tree()
    lines = [
        {**header, "settings": {**header["settings"], "search": "greedy"}},
        *(look([], TOTAL, 45), BRANCH, look([MLP], int(0.9 * TOTAL), 44), look([EMBED], int(0.9 * TOTAL), 40)),
        *(BRANCH, look([MLP, MLP], int(0.89 * TOTAL), 10), look([MLP, QK], int(0.89 * TOTAL), 12)),
    ]
    write_lines(run / "search" / "iteration-01" / "journal.jsonl", lines)
    (own,) = read_search(run).rounds
    assert own.chosen is own.looks[-1]
    assert own.chosen.objective < own.looks[1].objective


def test_costs_are_shares_of_the_total_that_the_journal_names(run):
    header, *operations = ROUNDS[0]
    settings = {**header["settings"], "cost": "latency@cpu", "total": 2 * TOTAL}
    write_lines(run / "search" / "iteration-01" / "journal.jsonl", [{**header, "settings": settings}, *operations])
    log = read_search(run)
    assert (log.unit, log.total) == ("latency@cpu", 2 * TOTAL)
    assert unit_name(log.unit) == "latency"


def test_the_accuracy_after_recovery_comes_from_the_rounds_model(run):
    write_rounds(run)
    source = run / "sliced" / "metrics.json"
    (run / "search" / "iteration-01" / "metrics.json").write_bytes(source.read_bytes())
    assert [own.recovered_top1 for own in read_search(run).rounds] == [0.979, None]


def test_the_frontier_is_what_no_complete_node_beats(run):
    write_rounds(run)
    assert read_search(run).frontier == (
        (int(0.7 * TOTAL), 41 / IMAGES),
        (int(0.8 * TOTAL), 46 / IMAGES),
    )


def test_steps_are_read(run):
    write_steps(run)
    log = read_search(run)
    assert isinstance(log, StepLog)
    assert (log.method, log.unit) == ("one-shot", "macs")
    assert [step.action for step in log.steps] == ["mlp", "head", "mlp"]
    assert kinds(log.steps) == {"mlp": 2, "head": 1}
    assert isinstance(log.steps[0], Removal)


def test_a_run_without_a_search_has_no_log(run):
    assert read_search(run) is None
    write_lines(run / "search" / "iteration-01" / "journal.jsonl", tree())
    assert read_search(run) is None


def test_a_line_that_was_cut_short_is_left_out(run):
    path = write_lines(run / "search" / "iteration-01" / "journal.jsonl", ROUNDS[0])
    whole = len(read_search(run).rounds[0].looks)
    path.write_text(path.read_text() + json.dumps(look([EMBED], TOTAL, 1))[:40])
    assert len(read_search(run).rounds[0].looks) == whole


def test_actions_in_few_words():
    mlp, embed = Step("mlp", 3), Step("embed", -1)
    assert actions((mlp, embed, mlp, mlp)) == "mlp 4 (3×), embed"  # noqa: RUF001
    assert actions(()) == ""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda lines: [{"schema": "other", "schema_version": 1}, *lines[1:]], "another kind"),
        (lambda lines: [{**lines[0], "schema_version": 2}, *lines[1:]], "newer"),
        (lambda lines: lines[1:], "another kind"),
        (lambda lines: [{**lines[0], "settings": {}}, *lines[1:]], "how many images"),
        (lambda lines: [*lines, {"op": "branch", "images": -10_000, "children": []}], "cannot be"),
        (lambda lines: [*lines, {"op": "guess"}], "no operation"),
        (lambda lines: [*lines, {"op": "look"}], "lacks the field"),
        (lambda lines: [*lines, {**lines[1], "cost": "much"}], "an?.* int"),
        (lambda lines: [*lines, {**lines[1], "cost": 0}], "cannot be"),
        (lambda lines: [*lines, {**lines[1], "correct": IMAGES + 1}], "cannot be"),
        (lambda lines: [*lines, {**lines[1], "images": -1}], "cannot be"),
        (lambda lines: [*lines, ["look"]], "no object"),
    ],
)
def test_a_damaged_tree_is_refused(run, change, text):
    path = write_lines(run / "search" / "iteration-01" / "journal.jsonl", change(ROUNDS[0]))
    with pytest.raises(ArtifactError, match=text):
        read_search(run)
    path.unlink()
    assert read_search(run) is None


def test_a_broken_line_in_the_middle_is_refused(run):
    path = write_lines(run / "search" / "iteration-01" / "journal.jsonl", ROUNDS[0])
    lines = path.read_text().splitlines(keepends=True)
    for wrong in ("{\n", '{"op": "look", "cost": NaN}\n', "[" * 100_000 + "\n"):
        path.write_text("".join([*lines[:3], wrong, *lines[3:]]))
        with pytest.raises(ArtifactError):
            read_search(run)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_search(run)


@pytest.mark.parametrize("change", [{"cost": 0}, {"importance": None}, {"block": 1.5}])
def test_damaged_steps_are_refused(run, change):
    path = write_steps(run)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [lines[0], {**lines[1], **change}, *lines[2:]])
    with pytest.raises(ArtifactError):
        read_search(run)


class Panel:
    """Stands for matplotlib's axes and keeps what is scattered."""

    def __init__(self):
        self.scattered = []

    def scatter(self, xs, ys, **style):
        self.scattered.append((list(xs), list(ys), style))

    def get_legend_handles_labels(self):
        return [], ["one"]

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def test_every_complete_node_is_drawn_filled_and_the_others_hollow(run):
    write_rounds(run)
    log = read_search(run)
    panel = Panel()
    nodes(log)(panel)
    hollow = [(xs, ys) for xs, ys, style in panel.scattered if style.get("marker") == "v" and xs]
    filled = [(xs, ys) for xs, ys, style in panel.scattered if "color" in style]
    chosen = [(x, y) for xs, ys, style in panel.scattered if style.get("s") == 70 for x, y in zip(xs, ys, strict=True)]
    assert hollow[0] == ([pytest.approx(84, abs=0.01)], [80.0])
    assert [len(xs) for xs, _ in filled] == [4, 3]
    assert chosen == [
        (pytest.approx(80, abs=0.01), 86.0),
        (pytest.approx(70, abs=0.01), 82.0),
    ]


def test_of_very_many_stopped_nodes_an_even_choice_is_drawn(run):
    many = [look([MLP], TOTAL - i, 20, images=25) for i in range(1, 2000)]
    many += [look([EMBED], TOTAL - i, 30) for i in range(1, 700)]
    write_lines(run / "search" / "iteration-01" / "journal.jsonl", tree(look([], TOTAL, 45), BRANCH, *many))
    panel = Panel()
    nodes(read_search(run))(panel)
    sizes = {style.get("marker"): len(xs) for xs, _, style in panel.scattered if xs}
    assert FAINT / 2 < sizes["v"] <= FAINT
    assert sizes["o"] == 700
