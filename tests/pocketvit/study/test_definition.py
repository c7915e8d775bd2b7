"""What a study's file may say, and how it is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pocketvit.study.baselines import baseline_key, baseline_settings
from pocketvit.study.cells import StudyCell, cells_of, check_cells
from pocketvit.study.conduct import measure_latency_tables
from pocketvit.study.definition import read_study
from runtime import PlanError, PocketVitError
from tests.pocketvit.conftest import Command

from .study_fixtures import STUDY, study_file


def cells(folder: Path, text: str = STUDY, more: str = "") -> tuple[StudyCell, ...]:
    return cells_of(read_study(study_file(folder, more, text)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[study]", "[studdy]", ("unknown table", "'studdy'", "Did you mean study?")),
        ("seeds =", "seads =", ("[study]", "'seads'", "Did you mean seeds?")),
        ("seeds = [0, 1]", "seeds = [0, -1]", ("seeds in [study]", "0 to 2147483647")),
        ("seeds = [0, 1]", "seeds = [0, 0]", ("seeds", "twice")),
        ("seeds = [0, 1]", "seeds = []", ("seeds in [study]",)),
        ("threads = 1", "threads = 0", ("threads in [study]", "1 or more")),
        ("workers = 1", 'reference = "l2"', ("reference", "'l2'", "one-shot, self-taught")),
        ('name = "tiny"', 'name = "../tiny"', ("name in [study]",)),
        ("seconds = 0.05", "seconds = 0", ("seconds in [measure]", "above 0")),
        ("grams-per-kwh = 400", 'grams-per-kwh = 400\ncountry = "DEU"', ("not both",)),
        ('formats = ["fp32"]', 'formats = ["int8"]', ("[measure] formats", "no cell exports", "fp32", "int8")),
        ("epochs = 2", "epoch = 2", ("[common]", "'epoch'", "Did you mean epochs?")),
        ("epochs = 2", 'epochs = "two"', ("[methods.one-shot]", "--epochs takes a whole number")),
        ("epochs = 2", "epochs = true", ("epochs in [common]", "True")),
        ("epochs = 2", "epochs = [2]", ("epochs in [common]", "not a list")),
        ("epochs = 2", "epochs = 2\ndistill = 1", ("distill in [common]", "true or false")),
        ("epochs = 2", "epochs = 2\nseed = 3", ("[common]", "sets seed", "[study] seeds")),
        ("epochs = 2", "epochs = 2\nthreads = 3", ("sets threads", "[study] threads")),
        ("epochs = 2", 'epochs = 2\nbudget = "macs=0.5"', ("sets a budget for all", "[study] budgets")),
        ("epochs = 2", "epochs = 2\nbench-seconds = 3", ("how to measure", "[measure]")),
        ("epochs = 2", "epochs = 2\nbatch-size = {{a = 1}}", ("batch-size in [common]", "a text, a number")),
        ('"depth=2"', '"depth"', ("--model-arg", "NAME=VALUE")),
        ('search = "one-shot"', 'search = "two-shot"', ("--search", "one-shot, milp")),
        ('command = "distill"', 'command = "teach"', ("command in [methods.self-taught]", "run or distill")),
        ('self-blocks = "1"', 'self-block = "1"', ("[methods.self-taught]", "Did you mean self-blocks?")),
        ('self-blocks = "1"', 'self-blocks = "a"', ("--self-blocks", "whole numbers")),
        ('method = "self"', 'method = "response"', ("needs a teacher",)),
        ('self-blocks = "1"', 'student = "runs/x"', ("student", "its own data and seed")),
        ("[methods.one-shot]", '[methods."one shot"]', ("cannot stand in a file's", "letters, digits")),
        ('budgets = ["macs=0.75"]', 'budgets = ["macs=0.75", "macs:0.75"]', ("would have one name",)),
        ('budgets = ["macs=0.75"]', "budgets = 0.75", ("budgets in [study]", "list")),
    ],
)
def test_what_no_study_says_is_refused_with_the_place_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, said: tuple[str, ...]
) -> None:
    assert old in STUDY.format(more="")
    with pytest.raises(PocketVitError) as refused:
        cells(tmp_path, STUDY.replace(old, new))
    for text in said:
        assert text in str(refused.value)


@pytest.mark.parametrize("text", ["[study", "a = 1", "[methods]\n"])
def test_files_that_are_no_study_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(PlanError, match=r"x\.toml"):
        read_study(tmp_path / "x.toml")
    with pytest.raises(PlanError, match="does not exist"):
        read_study(tmp_path / "y.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('budgets = ["macs=0.75"]', 'budgets = ["macs=0.75", "macs=0.001"]', "cannot be met"),
        ('model = "vit_tiny_patch16_224"', 'model = "vit_tinny"', "vit_tinny"),
        ("patch-size = 16", "patch-size = 13", "13"),
        ('self-blocks = "1"', 'self-blocks = "7"', "7"),
        ("seeds = [0, 1]", 'seeds = [0, 1]\ndata = ["imagefolder:/none"]', "/none"),
    ],
)
def test_what_no_run_can_do_is_refused_before_any_work(
    pocketvit: Command, tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = study_file(tmp_path, text=STUDY.replace(old, new))
    answer = pocketvit("study", path, "--runs", tmp_path / "runs")
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert said in answer.err
    assert not (tmp_path / "runs").exists()


def test_cells_are_methods_times_models_times_data_times_budgets_times_seeds(tmp_path: Path) -> None:
    text = STUDY.replace('budgets = ["macs=0.75"]', 'budgets = ["macs=0.75", "params=0.5"]')
    text = text.replace("[models.vit]", '[models.other]\nmodel = "vit_small_patch16_224"\n\n[models.vit]')
    text += '\n[methods.whole]\nbudget = "macs=1"\n'
    found = cells(tmp_path, text)
    # a method with a budget of its own, or without any, is not multiplied by the study's
    assert len(found) == (1 * 2 + 1 + 1) * 2 * 2
    assert len({cell.name for cell in found}) == len(found)
    assert {cell.budget for cell in found if cell.method == "whole"} == {"macs=1"}
    assert {cell.budget for cell in found if cell.method == "self-taught"} == {""}
    assert [cell.seed for cell in found[:4]] == [0, 1, 0, 1]
    assert all(cell.settings.threads == 1 for cell in found)


def test_options_of_a_method_go_before_those_of_its_model_and_these_before_common_ones(tmp_path: Path) -> None:
    text = STUDY.replace("[models.vit]", "[models.vit]\nepochs = 3\nlr = 0.25")
    text = text.replace('search = "one-shot"', "lr = 0.125\ndistill = false\nexact = true\ngroup-size = ['mlp=16']")
    one, *_ = cells(tmp_path, text)
    assert (one.settings.fine_tune.epochs, one.settings.fine_tune.lr) == (3, 0.125)
    assert one.settings.tree.exact
    assert not one.settings.distill
    assert one.settings.group_sizes == {"mlp": 16}
    assert one.settings.recover.epochs == 1


def test_cells_share_a_model_exactly_where_nothing_before_pruning_differs(tmp_path: Path) -> None:
    text = STUDY + "\n[methods.milp]\nsearch = 'milp'\nrecovery-epochs = 7\n[methods.slow]\nlr = 0.5\n"
    found = {(cell.method, cell.seed): cell for cell in cells(tmp_path, text)}
    keys = {name: cell.baseline for name, cell in found.items()}
    assert keys["one-shot", 0] == keys["milp", 0] == keys["self-taught", 0]
    assert len({keys["one-shot", 0], keys["one-shot", 1], keys["slow", 0], keys["slow", 1]}) == 4
    settings = found["one-shot", 0].settings
    assert baseline_settings(baseline_settings(settings)) == baseline_settings(settings)
    assert baseline_key(baseline_settings(settings), None) == keys["one-shot", 0]


def test_a_student_without_a_training_of_its_own_shares_none(tmp_path: Path) -> None:
    found = cells(tmp_path, STUDY.replace('self-blocks = "1"', 'self-blocks = "1"\nalone = false'))
    assert {cell.baseline for cell in found if cell.method == "self-taught"} == {None}


def test_int8_for_this_machine_is_chosen_by_time_and_so_made_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketvit.study.cells.host_processor", lambda: "x86")
    own = STUDY.replace('formats = "fp32"', 'formats = "fp32,int8"')
    assert all(cell.timed_export for cell in cells(tmp_path, own))
    other = own.replace("min-agreement = 0", 'min-agreement = 0\nfor = "pi5"')
    assert not any(cell.timed_export for cell in cells(tmp_path, other))
    assert not any(cell.timed_export for cell in cells(tmp_path))


def test_a_latency_table_is_measured_once_for_all_seeds_and_methods_that_go_by_it(tmp_path: Path) -> None:
    text = STUDY.replace('search = "one-shot"', 'search = "one-shot"\ncost = "latency@cpu"')
    text += "\n[methods.int8]\nbudget = 'latency=0.9@cpu'\nlatency-precision = 'int8'\n[methods.plain]\n"
    found = cells(tmp_path, text)
    measured: list[str] = []

    def profiler(plan: object, folder: Path, *, precision: str, **how: object) -> tuple[Any, Path]:
        measured.append(precision)
        return f"table of {precision}", folder

    tables = measure_latency_tables(found, profiler=profiler)
    assert measured == ["fp32", "int8"]
    assert {name.split(".")[0]: table for name, table in tables.items()} == {
        "one-shot": "table of fp32",
        "int8": "table of int8",
    }
    assert len(tables) == 2 * 2
    checked = {cell.name.split(".")[0]: cell.settings.latency_check for cell in found if cell.name in tables}
    assert checked == {"one-shot": True, "int8": False}  # cells are made while others run
    assert all(("--no-latency-check" in cell.words) == (cell.method == "int8") for cell in found)


def test_the_examples_can_be(pytestconfig: pytest.Config) -> None:
    examples = sorted((pytestconfig.rootpath / "docs" / "studies").glob("*.toml"))
    assert examples
    for path in examples:
        study = read_study(path)
        found = cells_of(study)
        if set(study.data) == {"digits"}:
            check_cells(study, found)


def test_the_example_of_the_docs_can_be(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    page = (pytestconfig.rootpath / "docs" / "guides" / "studies.md").read_text()
    path = tmp_path / "docs.toml"
    path.write_text(page.partition("```toml\n")[2].partition("```")[0])
    found = cells_of(read_study(path))
    assert len(found) == 3 * 3
