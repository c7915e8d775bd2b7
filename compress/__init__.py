"""Makes a Vision Transformer physically smaller: checkpoint in, smaller checkpoint out."""

from .augment import Augmentation, augmentation_for
from .budget import COUNTS, Budget, Cost, Tables, budget_cost, latency_target, parse_budget, parse_cost, smallest_plan
from .checkpoint_file import read_checkpoint
from .checkpoint_fit import LoadReport
from .class_order import ORDERS, as_checkpoint_knows, names_in_checkpoint, reordered, sorted_names
from .criteria import CRITERIA, Criterion, l2_scores, random_importance, taylor_scores, unit_importance
from .data import known_data, load_data, search_set
from .data_list import DataList, differences, list_data, read_data_list, write_data_list
from .dataset import Dataset
from .devices import choose_device, count_gpus, device_in_use, use_device
from .dfbnb import Node, SearchResult, Step, search_tree
from .distill import UNLABELLED, distillation_loss, label_loss, mutual_losses, soft_loss
from .distill_features import feature_loss
from .distill_lesson import Lesson, check_lesson
from .distill_relations import angle_loss, distance_loss
from .distill_self import self_loss
from .distill_settings import DISTILL_METHODS, RESPONSE_T2, RESPONSE_T4, Distillation, DistillMethod
from .distributed import RankError, Ranks, current_ranks, joined
from .evaluate import Score, evaluating, logits_of, score, score_of_logits
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
    load_checkpoint_report,
    load_model,
)
from .oneshot import GroupSizes, Proposal, propose
from .recipe import FINE_TUNE, RECOVER, SCRATCH, SCRATCH_RECOVER, TrainRecipe
from .reconstruction import images_needed, reconstruct
from .search_images import SearchImages, draw_search_images
from .slicing import BlockKept, Kept, compose, keep_all, plan_of, slice_vit
from .stratified import stratified
from .tas import TAS_JOURNAL, TAS_STATE, search_tas
from .tas_settings import TAS_AS_PUBLISHED, TasSettings
from .teacher_folder import TeacherRecord, open_teacher, read_teacher, record_of, save_teacher, trained_teacher
from .teachers import Teacher, TimmSpec, sliced_teacher, teacher_logits, teacher_score, timm_teacher
from .timm_vit import from_timm, plan_of_timm, to_timm
from .train import Trained, bf16_helps, fit, fit_network
from .tree_evaluation import objective
from .tree_journal import TreeJournal
from .tree_settings import TreeSettings
from .uniform import even_plan, most_important, scale_evenly
from .unlabelled import with_unlabelled
from .unstructured import (
    SPARSE_LAYERS,
    SPARSE_SCOPES,
    Masks,
    Sparsity,
    magnitude_masks,
    sparse_weights,
    sparsity,
    with_zeros,
)
from .vit import SlicedViT, build, parameter_axes

__all__ = [
    "COUNTS",
    "CRITERIA",
    "DISTILL_METHODS",
    "FINE_TUNE",
    "ORDERS",
    "RECOVER",
    "RESPONSE_T2",
    "RESPONSE_T4",
    "SCRATCH",
    "SCRATCH_RECOVER",
    "SPARSE_LAYERS",
    "SPARSE_SCOPES",
    "UNLABELLED",
    "Augmentation",
    "BlockImportance",
    "BlockKept",
    "Budget",
    "Cost",
    "Criterion",
    "DataList",
    "Dataset",
    "DistillMethod",
    "Distillation",
    "GroupSizes",
    "Importance",
    "InputStats",
    "Kept",
    "Lesson",
    "LoadReport",
    "Masks",
    "ModelSpec",
    "Node",
    "Proposal",
    "RankError",
    "Ranks",
    "Score",
    "SearchImages",
    "SearchResult",
    "SlicedViT",
    "Sparsity",
    "Step",
    "TAS_AS_PUBLISHED",
    "TAS_JOURNAL",
    "TAS_STATE",
    "Tables",
    "TasSettings",
    "Task",
    "Teacher",
    "TeacherRecord",
    "TimmSpec",
    "TrainRecipe",
    "Trained",
    "TreeJournal",
    "TreeSettings",
    "angle_loss",
    "as_checkpoint_knows",
    "augmentation_for",
    "bf16_helps",
    "budget_cost",
    "build",
    "check_lesson",
    "check_model",
    "checkpoint_classes",
    "choose_device",
    "compose",
    "count_gpus",
    "current_ranks",
    "default_classes",
    "device_in_use",
    "differences",
    "distance_loss",
    "distillation_loss",
    "draw_search_images",
    "evaluating",
    "even_plan",
    "feature_loss",
    "fisher_scores",
    "fit",
    "fit_network",
    "from_timm",
    "group_importance",
    "input_stats",
    "joined",
    "keep_all",
    "known_data",
    "l2_scores",
    "label_loss",
    "latency_target",
    "list_data",
    "load_checkpoint_report",
    "load_data",
    "load_model",
    "logits_of",
    "magnitude_masks",
    "most_important",
    "mutual_losses",
    "names_in_checkpoint",
    "objective",
    "open_teacher",
    "parameter_axes",
    "parse_budget",
    "parse_cost",
    "plain_batches",
    "plan_of",
    "plan_of_timm",
    "propose",
    "random_importance",
    "read_checkpoint",
    "read_data_list",
    "read_journal",
    "read_model",
    "read_task",
    "read_teacher",
    "record_of",
    "save_model",
    "save_teacher",
    "scale_evenly",
    "score",
    "score_of_logits",
    "search_greedily",
    "search_tas",
    "search_set",
    "search_tree",
    "self_loss",
    "images_needed",
    "reconstruct",
    "reordered",
    "slice_vit",
    "sliced_teacher",
    "smallest_plan",
    "soft_loss",
    "solve",
    "sorted_names",
    "sparse_weights",
    "sparsity",
    "stratified",
    "taylor_scores",
    "teacher_logits",
    "teacher_score",
    "timm_teacher",
    "to_timm",
    "trained_teacher",
    "training_batches",
    "unit_importance",
    "use_device",
    "weights_sha256",
    "with_unlabelled",
    "with_zeros",
    "write_data_list",
    "write_journal",
]
