"""Loads what PocketViT made: an exported file as a session, or a model of a run folder as a torch module."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import runtime
from runtime import PlanError
from runtime.engines import EngineDevice, EngineName
from runtime.options import in_words

Which = Literal["sliced", "baseline"]


def load(
    path: str | Path,
    engine: EngineName | None = None,
    threads: int = 1,
    device: EngineDevice = "cpu",
    *,
    which: Which = "sliced",
) -> Any:
    """Loads an exported file into its engine, or a model of a run folder as a torch module.

    Args:
        path: a model file, with its manifest in the same folder, which needs no torch; or a run folder, or a folder of
            ``CutModel.save``.
        engine: of a file, name of an engine that reads the format; by default the format's.
        threads: of a file, worker threads, at least 1.
        device: of a file, ``cpu`` or a GPU.
        which: of a run folder, the cut model ``sliced`` or the whole model ``baseline``.

    Returns:
        A ``Session`` for a file, and a ``CutModel`` on the CPU in evaluation mode for a folder.

    Raises:
        ArtifactError: a file or manifest is missing, damaged, of a newer version, or they disagree.
        RunFolderError: the folder holds no such model.
        PlanError: an option does not belong to what is loaded.
        UnsupportedTargetError: no such engine for this format, or no such device here.
        MissingExtraError: the engine, or for a folder torch or timm, is not installed.
    """
    if which not in get_args(Which):
        raise PlanError("A run folder has no such model", expected=in_words(get_args(Which)), got=repr(which))
    if not Path(path).is_dir():
        if which != "sliced":
            raise PlanError(f"{path} is a file or missing, and a run folder alone has a baseline", got=repr(which))
        return runtime.load(path, engine, threads, device)
    if (engine, threads, device) != (None, 1, "cpu"):
        raise PlanError(
            f"{path} is a folder, whose model torch computes",
            expected="no engine, threads or device",
            fix="Move the module with .to(device), and set threads with torch.set_num_threads",
        )
    from compress.in_memory.cut_model import read_cut_model

    return read_cut_model(Path(path), which)
