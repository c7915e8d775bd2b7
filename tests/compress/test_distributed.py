"""Two real processes learn what one does; run as a program, this module starts them and is what they do."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from compress.data.augment import Augmentation
from compress.data.dataset import Dataset, ImageStore
from compress.distill.settings import Distillation
from compress.distill.teachers import Teacher, sliced_teacher
from compress.distributed import RankError, current_ranks, joined
from compress.recipe import TrainRecipe
from compress.train.fit import Trained, fit
from runtime import BlockPlan, DataError, encode

from .tiny import SPEC, TINY_PLAN, tiny_vit, toy_data

VICTIMS = {"kill": 0, "error": 1}
"""Which rank fails, by how it does."""

RECIPE = TrainRecipe(epochs=3, batch_size=8, lr=2e-3, head_lr=4e-3, warmup=0.2, patience=3, clip_norm=1.0)


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at(step: int) -> Callable[..., None]:
    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if done == step:
            raise Killed

    return progress


LARGE = replace(SPEC, height=16, width=16, mean=(0.4,))


def learn(recipe: TrainRecipe = RECIPE, data: Dataset | None = None, **options: Any) -> Trained:
    options = {"augmentation": Augmentation(mirror=0.0), "seed": 1} | options
    return fit(tiny_vit(), data or toy_data(), SPEC, recipe, **options)


def wide_teacher() -> Teacher:
    plan = replace(TINY_PLAN, img_size=(16, 16), embed_dim=24, blocks=(BlockPlan(2, 8, 8, 24),) * 3)
    return sliced_teacher(tiny_vit(plan, seed=9), LARGE)


def partly_labelled() -> Dataset:
    data = toy_data()
    labels = data.labels.copy()
    labels[data.train[::3]] = -1
    return replace(data, labels=labels)


def taught(*methods: Any, teacher: Teacher | None = None, **more: Any) -> Trained:
    told = Distillation(methods=methods, fresh_lr=1e-2, distance_weight=1.0, angle_weight=2.0, **more)
    return learn(replace(RECIPE, batch_size=7), partly_labelled(), teacher=teacher, distillation=told)


CASES: dict[str, Callable[[], Trained]] = {
    "labels": learn,
    "uneven": lambda: learn(replace(RECIPE, batch_size=7)),
    "single": lambda: learn(replace(RECIPE, batch_size=1, epochs=1), replace(toy_data(), train=np.arange(6))),
    "response": lambda: taught("response", teacher=wide_teacher()),
    "feature": lambda: taught("feature", teacher=wide_teacher()),
    "relation": lambda: taught("relation", teacher=wide_teacher()),
    "self": lambda: taught("self"),
    "online": lambda: taught("response", "feature", teacher=wide_teacher(), online=True, teacher_lr=1e-3),
}


def resumed(folder: Path) -> Trained:
    return learn(state_path=folder / "killed.safetensors")


@dataclass(frozen=True)
class Failing:
    """Pictures that fail one rank after so many, by an error or by the end of its process."""

    images: ImageStore
    victim: int
    after: int
    how: str
    seen: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image.Image:
        self.seen.append(index)
        if current_ranks().rank == self.victim and len(self.seen) > self.after:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError(f"The picture {index} is torn")
        return self.images[index]


def fail(folder: Path, how: str) -> None:
    data = toy_data()
    data = replace(data, images=Failing(data.images, VICTIMS[how], 40, how))
    seconds = itertools.count(0.0, 31.0)
    with joined():
        learn(data=data, state_path=folder / f"{how}.safetensors", clock=lambda: next(seconds))


def keep(trained: Trained, folder: Path, name: str) -> None:
    weights = {f"model.{key}": value for key, value in trained.model.state_dict().items()}
    if trained.teacher is not None:
        weights |= {f"teacher.{key}": value for key, value in trained.teacher.state_dict().items()}
    save_file(weights, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(encode(trained.epochs)))


def compare(folder: Path) -> None:
    with joined():
        for name, case in CASES.items():
            keep(case(), folder, name)
        keep(resumed(folder), folder, "resumed")


def program(what: str, folder: Path) -> None:
    """Is what every rank runs; the work outside of trainings is rank 0's."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        if what == "compare":
            compare(folder)
        else:
            fail(folder, what)
    except RankError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def start_all(folder: Path) -> None:
    """Has two ranks do one thing after another; torch is loaded once, before they part, as that takes the longest.

    There is no launcher that would end one when it loses the other.
    """
    codes = {}
    for what in ("compare", *VICTIMS):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = str(probe.getsockname()[1])
        ranks = [started(what, folder, rank, port) for rank in range(2)]
        codes[what] = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
    (folder / "codes.json").write_text(json.dumps(codes))


def started(what: str, folder: Path, rank: int, port: str) -> int:
    """Returns the process of a rank, which ends by a signal where it does not end by itself."""
    process = os.fork()
    if process:
        return process
    signal.alarm(120)
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port})
    os.dup2(os.open(folder / f"{what}.{rank}.txt", os.O_WRONLY | os.O_CREAT), 2)
    program(what, folder)
    sys.exit(0)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks made of every case, and of a training that one process began; and of their failures."""
    folder = tmp_path_factory.mktemp("ranks")
    seconds = itertools.count(0.0, 31.0)
    with pytest.raises(Killed):
        learn(state_path=folder / "killed.safetensors", progress=kill_at(6), clock=lambda: next(seconds))
    told = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    told |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
    command = [sys.executable, "-m", "tests.compress.test_distributed", str(folder)]
    subprocess.run(command, env={**os.environ, **told}, check=True)
    codes, said = ended(folder, "compare")
    assert codes == [0, 0], said
    return folder


def ended(folder: Path, what: str) -> tuple[list[int], list[str]]:
    """Returns exit code and stderr of both ranks."""
    codes = json.loads((folder / "codes.json").read_text())[what]
    return codes, [(folder / f"{what}.{rank}.txt").read_text() for rank in range(2)]


def assert_close(epochs: list[dict[str, float]], weights: dict[str, torch.Tensor], trained: Trained) -> None:
    """Says that two trainings are one, up to the order of float32 sums.

    A loss is a sum over pictures, and a gradient too: in another order they differ by a few units of 2^-24, 6e-8.
    AdamW divides the gradient by its own size, so what such a difference does to a weight is a like share of its step,
    and a dozen steps leave it at 1e-6 of the loss: 1e-4 is far above that, and far below what one picture more or
    less, or another weight of a share, would change (more than 1e-2 here).
    """
    assert len(epochs) == len(trained.epochs) > 0
    for one, other in zip(epochs, map(encode, trained.epochs), strict=True):
        assert one["held_out_top1"] == other["held_out_top1"]
        for name in ("train_loss", "held_out_loss"):
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
    own = {f"model.{name}": value for name, value in trained.model.state_dict().items()}
    if trained.teacher is not None:
        own |= {f"teacher.{name}": value for name, value in trained.teacher.state_dict().items()}
    assert weights.keys() == own.keys()
    for name, value in own.items():
        # softmax does not see a key's bias: its gradient is rounding alone, which AdamW brings to the size of a step
        if not name.endswith("attn.k.bias"):
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_learn_what_one_does(two_ranks: Path, name: str) -> None:
    epochs = json.loads((two_ranks / f"{name}.json").read_text())
    assert_close(epochs, load_file(two_ranks / f"{name}.safetensors"), CASES[name]())


@pytest.mark.slow
def test_what_one_process_began_two_ranks_finish(two_ranks: Path) -> None:
    epochs = json.loads((two_ranks / "resumed.json").read_text())
    assert_close(epochs, load_file(two_ranks / "resumed.safetensors"), learn())


@pytest.mark.slow
def test_when_rank_0_is_killed_the_other_ends_and_one_process_finishes(two_ranks: Path) -> None:
    codes, (_, said) = ended(two_ranks, "kill")
    assert codes == [-signal.SIGKILL, 1]
    assert "Traceback" not in said
    steps: list[int] = []
    path = two_ranks / "kill.safetensors"
    # in the same kind of store, for a state goes on with the pictures it was saved of alone
    data = replace(toy_data(), images=Failing(toy_data().images, victim=-1, after=0, how="never"))
    trained = learn(data=data, state_path=path, progress=lambda stage, step, total, note="": steps.append(step))
    assert 2 < steps[0] < 12
    undisturbed = learn()
    weights = {f"model.{name}": value for name, value in undisturbed.model.state_dict().items()}
    assert_close(encode(undisturbed.epochs), weights, trained)


@pytest.mark.slow
def test_a_rank_that_fails_is_named_by_rank_0(two_ranks: Path) -> None:
    codes, (said, beside) = ended(two_ranks, "error")
    assert codes == [1, 1]
    assert re.search(r"^Rank 1 of 2 failed: The picture \d+ is torn\. Mend that", said)
    assert "Traceback" not in said + beside


if __name__ == "__main__":
    start_all(Path(sys.argv[1]))
