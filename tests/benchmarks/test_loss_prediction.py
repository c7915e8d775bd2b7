"""The benchmark of the predicted loss."""

from __future__ import annotations

import torch

from benchmarks import loss_prediction
from benchmarks.cutting.pictures import Pictures
from benchmarks.cutting.subject import Subject
from compress.bases.analysis import analyse
from compress.data.load import load_data
from compress.model.load import load_model
from compress.model.slicing import keep_all
from tests.benchmarks.test_real_weights import INPUT, SPEC
from tests.compress.tiny import TINY_PLAN, images_for, tiny_vit


def test_what_is_kept_is_not_predicted_to_be_lost() -> None:
    analysis = analyse(tiny_vit(TINY_PLAN), images_for(TINY_PLAN, 32))
    whole = keep_all(analysis.model.plan)
    assert abs(loss_prediction.predicted(analysis.importance, whole)) < 1e-9


def test_the_table_has_a_line_for_every_budget() -> None:
    model, randoms = load_model(SPEC, 10, seed=4), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=randoms))
    pictures = Pictures("data", load_data("digits"), INPUT, True, 64)
    table = loss_prediction.table(Subject(SPEC, model, (pictures,), 96), "data", (0.9, 0.5), 4)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["0.9", "4"], ["0.5", "4"], ["all", "8"]]
    assert float(rows[-1][2]) > 0.8
    assert float(rows[-1][3]) > 0
