"""What runs on a device: an exported file and pictures in, predictions out. Needs numpy and one engine."""

from runtime.engines.base import DeviceEngine, Engine, EngineDevice, EngineName, Event, Resident
from runtime.pictures.listing import IMAGE_SUFFIXES, PictureFile, PictureTree, excluded_in_words, list_pictures
from runtime.pictures.preprocess import (
    Interpolation,
    Preprocessing,
    normalise,
    open_image,
    preprocess,
    to_channels,
    to_pixels,
)
from runtime.storage.codec import decode, encode
from runtime.storage.documents import Document, JsonLines
from runtime.storage.fields import check_fields, check_is
from runtime.storage.files import atomic_path, dumps, sha256_of, storage_errors, write_bytes

from .artifact import (
    ARTIFACT_DOCUMENT,
    Artifact,
    Calibration,
    HalfArithmetic,
    Precision,
    Provenance,
    TensorSpec,
    Trial,
    manifest_path,
    read_artifact,
    write_artifact,
)
from .contact_sheet import contact_sheet
from .cost import flops, macs, params
from .engines import open_device_engine, open_engine
from .errors import (
    ArtifactError,
    DataError,
    MeasurementError,
    MissingExtraError,
    ModelError,
    ParityError,
    PlanError,
    PocketVitError,
    PocketVitWarning,
    RunFolderError,
    StorageError,
    UnsupportedTargetError,
)
from .latency import LATENCY_DOCUMENT, LatencyCheck, LatencyPrecision, LatencyTable, WidthGrid, check_fits, latency_of
from .metrics import METRICS_DOCUMENT, EpochRecord, ModelMetrics, WholeComparison
from .parity import ClassLoss, GpuParity, Parity
from .plan import MULTIPLE, PLAN_DOCUMENT, BlockKind, BlockPlan, NormPlace, NormType, Pooling, PosEmbed, ShapePlan
from .plan_parts import PoolPlan, StemOp, stem_sizes
from .progress import Progress, if_long, message, silent
from .quiet import quiet
from .session import Prediction, Session, load, softmax
from .version import tool_version

__all__ = [
    "ARTIFACT_DOCUMENT",
    "IMAGE_SUFFIXES",
    "LATENCY_DOCUMENT",
    "METRICS_DOCUMENT",
    "MULTIPLE",
    "PLAN_DOCUMENT",
    "PoolPlan",
    "StemOp",
    "stem_sizes",
    "Artifact",
    "ArtifactError",
    "BlockKind",
    "BlockPlan",
    "Calibration",
    "HalfArithmetic",
    "ClassLoss",
    "LatencyCheck",
    "DataError",
    "EngineDevice",
    "DeviceEngine",
    "Document",
    "Engine",
    "EngineName",
    "Event",
    "GpuParity",
    "EpochRecord",
    "WidthGrid",
    "LatencyPrecision",
    "LatencyTable",
    "MeasurementError",
    "MissingExtraError",
    "ModelError",
    "ModelMetrics",
    "NormPlace",
    "NormType",
    "Parity",
    "PictureFile",
    "PictureTree",
    "Precision",
    "ParityError",
    "PlanError",
    "PocketVitError",
    "PocketVitWarning",
    "Pooling",
    "PosEmbed",
    "Prediction",
    "Interpolation",
    "JsonLines",
    "Preprocessing",
    "Progress",
    "Provenance",
    "Resident",
    "RunFolderError",
    "Session",
    "ShapePlan",
    "StorageError",
    "TensorSpec",
    "Trial",
    "UnsupportedTargetError",
    "WholeComparison",
    "atomic_path",
    "check_fields",
    "check_fits",
    "check_is",
    "contact_sheet",
    "decode",
    "dumps",
    "encode",
    "flops",
    "if_long",
    "excluded_in_words",
    "latency_of",
    "list_pictures",
    "load",
    "macs",
    "manifest_path",
    "message",
    "normalise",
    "open_device_engine",
    "open_engine",
    "open_image",
    "params",
    "preprocess",
    "quiet",
    "read_artifact",
    "sha256_of",
    "silent",
    "softmax",
    "storage_errors",
    "to_channels",
    "to_pixels",
    "tool_version",
    "write_artifact",
    "write_bytes",
]
