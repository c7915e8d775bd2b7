"""Makes a Vision Transformer physically smaller: checkpoint in, smaller checkpoint out."""

from .augment import Augmentation, augmentation_for
from .budget import COUNTS, Budget, Cost, Tables, budget_cost, latency_target, parse_budget, parse_cost, smallest_plan
from .data import known_data, load_data, search_set
from .dataset import Dataset
from .dfbnb import Node, SearchResult, Step, TreeSettings, objective, search_tree
from .distill import distillation_loss
from .evaluate import Score, evaluating, logits_of, score
from .folder import Task, read_model, read_task, save_model, weights_sha256
from .greedy import search_greedily
from .importance import BlockImportance, Importance, fisher_scores, group_importance
from .journal import read_journal, write_journal
from .loading import plain_batches, training_batches
from .milp import solve
from .models import (
    InputStats,
    ModelSpec,
    check_model,
    checkpoint_classes,
    default_classes,
    input_stats,
    load_model,
    read_checkpoint,
)
from .oneshot import GroupSizes, Proposal, propose
from .recipe import FINE_TUNE, RECOVER, SCRATCH, SCRATCH_RECOVER, TrainRecipe
from .search_images import SearchImages, draw_search_images
from .slicing import BlockKept, Kept, compose, keep_all, plan_of, slice_vit
from .tas import TAS_JOURNAL, TAS_STATE, search_tas
from .tas_settings import TasSettings
from .timm_vit import from_timm, plan_of_timm
from .train import Trained, bf16_helps, fit
from .tree_journal import TreeJournal
from .vit import SlicedViT, build, parameter_axes

__all__ = [
    "COUNTS",
    "FINE_TUNE",
    "RECOVER",
    "SCRATCH",
    "SCRATCH_RECOVER",
    "TAS_JOURNAL",
    "TAS_STATE",
    "Augmentation",
    "BlockImportance",
    "BlockKept",
    "Budget",
    "Cost",
    "Dataset",
    "GroupSizes",
    "Importance",
    "InputStats",
    "Kept",
    "ModelSpec",
    "Node",
    "Proposal",
    "Score",
    "SearchImages",
    "SearchResult",
    "SlicedViT",
    "Step",
    "Tables",
    "TasSettings",
    "Task",
    "TrainRecipe",
    "Trained",
    "TreeJournal",
    "TreeSettings",
    "augmentation_for",
    "bf16_helps",
    "build",
    "check_model",
    "checkpoint_classes",
    "compose",
    "default_classes",
    "distillation_loss",
    "draw_search_images",
    "evaluating",
    "fisher_scores",
    "fit",
    "from_timm",
    "group_importance",
    "input_stats",
    "keep_all",
    "known_data",
    "load_data",
    "load_model",
    "logits_of",
    "objective",
    "parameter_axes",
    "budget_cost",
    "latency_target",
    "parse_budget",
    "parse_cost",
    "plain_batches",
    "plan_of",
    "plan_of_timm",
    "propose",
    "read_checkpoint",
    "read_journal",
    "read_model",
    "read_task",
    "save_model",
    "score",
    "search_set",
    "search_greedily",
    "search_tas",
    "search_tree",
    "slice_vit",
    "solve",
    "smallest_plan",
    "training_batches",
    "weights_sha256",
    "write_journal",
]
