"""Trains the weights and the odds of a transformable architecture search in turns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compress.budget import Budget
from compress.data.augment import Augmentation
from compress.data.batches import Batch, training_batches
from compress.data.data_list import data_digest
from compress.data.dataset import Dataset
from compress.model.folder import weights_sha256
from compress.model.vit import SlicedViT, build
from compress.own_answers import with_answers
from compress.recipe import TrainRecipe
from compress.search.knapsack import Floats
from compress.train.optimizer import learning_rate, make_optimizer
from runtime import PlanError, Preprocessing, encode

from .candidates import Choice, candidates_of, plan_with
from .cost import CostTable, cost_hinge
from .journal import by_kind, rounded_odds
from .plan import argmax_plan
from .settings import OddsRecipe
from .state import TasState, moments_of, restore_moments
from .supernet import Sample, draw_sample, run_sample

_PAIR = 2
"""Candidates of a width that take part in a step of the weights."""


class OddsTraining:
    """The training of one search.

    Attributes:
        plan: plan of the model to prune.
        candidates: candidates of every choice.
        table: costs of the candidates.
        budget: the target cost.
        settings: settings of the odds.
        step: number of finished steps.
        total_steps: number of steps of the whole search.
        steps_per_epoch: number of steps of a pass over half of the training images.
    """

    def __init__(
        self,
        model: SlicedViT,
        budget: Budget,
        data: Dataset,
        spec: Preprocessing,
        recipe: TrainRecipe,
        settings: OddsRecipe,
        augmentation: Augmentation,
        seed: int,
        bf16: bool,
    ) -> None:
        self.budget, self.data, self.spec, self.recipe = budget, data, spec, recipe
        self.settings, self.augmentation = settings, augmentation
        self.seed, self.bf16, self.plan = seed, bf16, model.plan
        self.net = build(model.plan, model.state_dict())
        self.candidates = candidates_of(model.plan, settings.candidates, settings.least_share)
        self.table = CostTable.of(model.plan, self.candidates, budget.cost)
        self.logits = {
            choice: torch.zeros(len(widths), dtype=torch.float64, requires_grad=len(widths) > 1)
            for choice, widths in self.candidates.items()
        }
        self.learnt = [logits for logits in self.logits.values() if logits.requires_grad]
        self.weight_optimizer = make_optimizer(self.net, recipe)
        kind = torch.optim.SGD if settings.optimizer == "sgd" else torch.optim.Adam
        self.logit_optimizer = kind([{"params": self.learnt}], settings.lr, weight_decay=settings.weight_decay)
        shuffled = np.random.default_rng([seed, 31]).permutation(data.train)
        half = -(-len(shuffled) // 2)
        self.halves = np.sort(shuffled[:half]), np.sort(shuffled[half:])
        self.steps_per_epoch = -(-len(self.halves[1]) // recipe.batch_size)
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.step, self.losses = 0, (math.nan, math.nan)
        self.whole = None if data.labelled else build(model.plan, model.state_dict())
        self.fingerprint = self._describe()

    def _describe(self) -> str:
        """Returns the text that must be equal for a saved state to be resumed."""
        digest = hashlib.sha256()
        for half in self.halves:
            digest.update(half.tobytes() + self.data.labels[half].tobytes())
        for extras in (*self.table.before, *self.table.last):
            digest.update(extras.heads.tobytes() + extras.mlp.tobytes())
        digest.update(self.table.ends.tobytes())
        given = (self.augmentation, self.spec, self.seed, self.bf16, self.plan)
        asked = (self.budget.cost.name, self.budget.limit, data_digest(self.data), weights_sha256(self.net))
        settings = repr(self.settings).replace("OddsRecipe(", "TasSettings(", 1)  # the class's name in earlier versions
        return "|".join((repr(self.recipe), settings, *map(repr, (*given, *asked, digest.hexdigest()))))

    @property
    def finished(self) -> bool:
        """Whether every step was taken."""
        return self.step >= self.total_steps

    @property
    def temperature(self) -> float:
        """Temperature of the samples of the next step; after the last step, that of the last step."""
        hot, cold = self.settings.hot, self.settings.cold
        done = min(self.step, self.total_steps - 1) / max(1, self.total_steps - 1)
        return hot + (cold - hot) * done

    @property
    def odds(self) -> dict[Choice, Floats]:
        """Current probabilities of every choice's candidates."""
        return {choice: logits.detach().softmax(0).numpy() for choice, logits in self.logits.items()}

    @property
    def cost(self) -> int:
        """Cost of the most likely plan."""
        return self.budget.of(plan_with(self.plan, argmax_plan(self.candidates, self.odds)))

    @property
    def note(self) -> str:
        """Description of the search's state, for the progress line."""
        plan = plan_with(self.plan, argmax_plan(self.candidates, self.odds))
        share = self.budget.of(plan) / self.budget.of(self.plan)
        return f"cost {share:.1%}, embed_dim {plan.embed_dim}, {len(plan.blocks)} blocks, loss {self.losses[1]:.3f}"

    def batches(self) -> Iterator[tuple[Batch, Batch]]:
        """Yields a batch of each half of the images, to the end of the current epoch.

        The labels of pictures without any are the answers of the model to prune.
        """
        epoch, done = divmod(self.step, self.steps_per_epoch)
        both = [
            training_batches(
                self.data,
                half,
                self.spec,
                self.augmentation,
                batch_size=self.recipe.batch_size,
                seed=self.seed,
                epoch=epoch,
                skip=done,
            )
            for half in self.halves
        ]
        yield from zip(
            *(both if self.whole is None else (with_answers(own, self.whole, self.bf16) for own in both)),
            strict=False,  # the first half may be longer by one image
        )

    def take_step(self, train: Batch, valid: Batch) -> None:
        """Trains the weights on one batch, then the odds on another."""
        generator = np.random.default_rng([self.seed, 37, self.step])
        trained = self._train_weights(train, generator)
        self.losses = trained, self._train_odds(valid, generator)
        if not all(map(math.isfinite, self.losses)):
            raise PlanError(
                f"The search diverged at step {self.step + 1} of {self.total_steps}",
                got=f"a loss of {trained}",
                fix="Lower the learning rate with --recovery-lr",
            )
        self.step += 1

    def _train_weights(self, batch: Batch, generator: np.random.Generator) -> float:
        rate = learning_rate(self.step, self.total_steps, self.recipe.warmup)
        for group in self.weight_optimizer.param_groups:
            group["lr"] = rate * group["peak_lr"]
        fixed = {choice: logits.detach() for choice, logits in self.logits.items()}
        loss = self._loss(self._draw(fixed, generator, _PAIR), batch)
        self.weight_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.weight_optimizer.step()
        return float(loss.detach())

    def _train_odds(self, batch: Batch, generator: np.random.Generator) -> float:
        loss = self._loss(self._draw(self.logits, generator, self.settings.drawn), batch)
        expected = self.table.expected({choice: logits.softmax(0) for choice, logits in self.logits.items()})
        pull = cost_hinge(expected, self.cost, self.budget.limit, self.settings.tolerance)
        gradients = torch.autograd.grad(loss + self.settings.cost_weight * pull, self.learnt)
        for logits, gradient in zip(self.learnt, gradients, strict=True):
            logits.grad = gradient
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.learnt, self.settings.clip_norm)
        self.logit_optimizer.step()
        return float(loss.detach())

    def _draw(self, logits: dict[Choice, torch.Tensor], generator: np.random.Generator, count: int) -> Sample:
        return draw_sample(logits, self.candidates, self.temperature, generator, self.settings.align, count)

    def _loss(self, sample: Sample, batch: Batch) -> torch.Tensor:
        images, labels = batch
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = run_sample(self.net, sample, images)
        return F.cross_entropy(logits.float(), labels)

    @property
    def record(self) -> dict[str, Any]:
        """The journal's line for the current state."""
        odds = self.odds
        expected = self.table.expected({choice: torch.from_numpy(p) for choice, p in odds.items()})
        train, valid = (loss if self.step else None for loss in self.losses)
        return {
            "step": self.step,
            "temperature": round(self.temperature, 6),
            "train_loss": train,
            "valid_loss": valid,
            "cost": self.cost,
            "expected_cost": float(expected),
            "odds": by_kind({choice: rounded_odds(p) for choice, p in odds.items()}),
        }

    @property
    def asked(self) -> dict[str, Any]:
        """The settings in the journal's header."""
        return {
            "cost": self.budget.cost.name,
            "limit": self.budget.limit,
            "total": self.budget.of(self.plan),
            "steps": self.total_steps,
            "tas": encode(self.settings),
            "fingerprint": hashlib.sha256(self.fingerprint.encode()).hexdigest(),
        }

    def state(self, records: int) -> TasState:
        """Returns everything ``restore`` needs."""
        return TasState(
            step=self.step,
            records=records,
            weights=self.net.state_dict(),
            weight_moments=moments_of(self.weight_optimizer, list(self.net.parameters())),
            logits={f"{c.kind}.{c.block}": value.detach() for c, value in self.logits.items()},
            logit_moments=moments_of(self.logit_optimizer, self.learnt),
        )

    def restore(self, state: TasState) -> None:
        """Resumes from ``state``."""
        self.step = state.step
        self.net.load_state_dict(state.weights)
        restore_moments(self.weight_optimizer, list(self.net.parameters()), state.weight_moments)
        with torch.no_grad():
            for choice, logits in self.logits.items():
                logits.copy_(state.logits[f"{choice.kind}.{choice.block}"])
        restore_moments(self.logit_optimizer, self.learnt, state.logit_moments)
