"""What runs on a device: an exported file and pictures in, predictions out. Needs numpy and one engine."""

from .artifact import (
    Artifact,
    Calibration,
    Parity,
    Provenance,
    TensorSpec,
    manifest_path,
    read_artifact,
    write_artifact,
)
from .codec import decode, encode
from .contact_sheet import contact_sheet
from .cost import flops, macs, params
from .engines import Engine, EngineName, open_engine
from .errors import (
    ArtifactError,
    DataError,
    MeasurementError,
    MissingExtraError,
    ModelError,
    ParityError,
    PlanError,
    PocketVitError,
    RunFolderError,
    StorageError,
    UnsupportedTargetError,
)
from .files import atomic_path, dumps, read_document, sha256_of, storage_errors, write_bytes, write_document
from .latency import (
    Check,
    Grid,
    LatencyPrecision,
    LatencyTable,
    check_fits,
    latency_of,
    read_latency,
    write_latency,
)
from .metrics import EpochRecord, ModelMetrics, read_metrics, write_metrics
from .plan import MULTIPLE, BlockPlan, NormPlace, Pooling, PosEmbed, ShapePlan, read_plan, write_plan
from .preprocess import Preprocessing, normalise, open_image, preprocess, to_channels, to_pixels
from .progress import Progress, silent
from .quiet import quiet
from .session import Prediction, Session, load, softmax
from .version import tool_version

__all__ = [
    "MULTIPLE",
    "Artifact",
    "ArtifactError",
    "BlockPlan",
    "Calibration",
    "Check",
    "DataError",
    "Engine",
    "EngineName",
    "EpochRecord",
    "Grid",
    "LatencyPrecision",
    "LatencyTable",
    "MeasurementError",
    "MissingExtraError",
    "ModelError",
    "ModelMetrics",
    "NormPlace",
    "Parity",
    "ParityError",
    "PlanError",
    "PocketVitError",
    "Pooling",
    "PosEmbed",
    "Prediction",
    "Preprocessing",
    "Progress",
    "Provenance",
    "RunFolderError",
    "Session",
    "ShapePlan",
    "StorageError",
    "TensorSpec",
    "UnsupportedTargetError",
    "atomic_path",
    "check_fits",
    "contact_sheet",
    "decode",
    "dumps",
    "encode",
    "flops",
    "latency_of",
    "load",
    "macs",
    "manifest_path",
    "normalise",
    "open_engine",
    "open_image",
    "params",
    "preprocess",
    "quiet",
    "read_artifact",
    "read_document",
    "read_latency",
    "read_metrics",
    "read_plan",
    "sha256_of",
    "silent",
    "softmax",
    "storage_errors",
    "to_channels",
    "to_pixels",
    "tool_version",
    "write_artifact",
    "write_bytes",
    "write_document",
    "write_latency",
    "write_metrics",
    "write_plan",
]
