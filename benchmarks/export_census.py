"""Which of timm's classifiers without a plan can be exported, each verified against torch.

    python benchmarks/export_census.py --out FOLDER --group [--plans CENSUS]
    python benchmarks/export_census.py --out FOLDER [--seconds 3600] [--again]
    python benchmarks/export_census.py --out FOLDER --table

Architectures whose graphs differ in depth and width alone count once; ``--group`` finds these groups
(``export_groups.py``). Of each group the smallest model is built, blocks that repeat an earlier one of the same sizes
are dropped, and its weights are disturbed by noise. It is exported to ONNX and to float32 TFLite in a process with
limits of time and memory, and both files must give torch's logits within 1e-4 of the largest one. Each
group is one line of ``exports.jsonl``, so that a run that was stopped goes on; ``--again`` repeats those that failed.
What is no classifier is refused by name, as by ``pocketvit export``, and counts apart. The extra ``convert`` has to be
installed. ``--plans`` names the ``census.jsonl`` of ``census.py``, which knows the models that have a plan.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from export_groups import Grouped, find_groups, planned_in, read_groups, representatives, signature
from torch import nn

from compress.model.catalogue import names_like, without_weights
from compress.model.other import check_classifier
from compress.model.whole.plain import plain_network
from export.convert.onnx import convert_to_onnx
from export.convert.tflite import convert_to_tflite
from runtime import ModelError

MOST = 1e-4
"""Largest difference from torch, as a share of the largest logit."""

_CLASSES = 10
_SMALL = (64, 96)
_SECONDS, _BYTES = 300, 9 << 30


@dataclass(frozen=True)
class Exported:
    """What one graph showed.

    Attributes:
        graph: digest of its signature.
        name: the architecture that was exported.
        kind: the class that timm builds.
        image: channels, height and width.
        params: of the model that was exported.
        seconds: that it took.
        onnx: largest difference of the ONNX file from torch, as a share of the largest logit; None without a file.
        tflite: the same of the TFLite file.
        onnx_error: what went wrong, or None.
        tflite_error: what went wrong, or None.
        refused: why ``pocketvit export`` refuses it by name, as it does what is no classifier; or None.
    """

    graph: str
    name: str
    kind: str
    image: tuple[int, ...] = ()
    params: int = 0
    seconds: float = 0.0
    onnx: float | None = None
    tflite: float | None = None
    onnx_error: str | None = None
    tflite_error: str | None = None
    refused: str | None = None

    @property
    def sound(self) -> bool:
        """Whether both files compute what torch does."""
        return all(off is not None and off <= MOST for off in (self.onnx, self.tflite))

    @property
    def settled(self) -> bool:
        """Whether another try can show nothing new."""
        return self.sound or self.refused is not None


def thin(model: nn.Module, images: torch.Tensor) -> None:
    """Drops blocks like an earlier one: those of the same sizes, and those of other sizes without which it runs."""
    known: set[tuple[Any, ...]] = set()
    for module in list(model.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        seen: set[str] = set()
        for key, child in list(module.named_children()):
            own, kind = _exactly(child), signature(child)
            if any(True for _ in child.parameters()):
                if own in seen:
                    del module._modules[key]
                elif kind in known:
                    _drop(model, module, key, images)
                known.add(kind)
            seen.add(own)


def _drop(model: nn.Module, module: nn.Sequential, key: str, images: torch.Tensor) -> None:
    before = dict(module._modules)
    del module._modules[key]
    try:
        model(images)
    except Exception:  # it changes the width or the size of the image
        module._modules.clear()
        module._modules.update(before)


def _exactly(module: nn.Module) -> str:
    parts = []
    for own in module.modules():
        plain = {
            key: value
            for key, value in vars(own).items()
            if not key.startswith("_") and isinstance(value, bool | int | float | str | tuple)
        }
        shapes = [(key, tuple(value.shape)) for key, value in own.named_parameters(recurse=False)]
        parts.append((type(own).__name__, sorted(plain.items(), key=repr), shapes))
    return repr(parts)


def smaller(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """Builds an architecture without repeated blocks, for as small an image as it takes, and the image's shape.

    Raises:
        ModelError: it is no classifier.
        RuntimeError: it runs with no size that was tried.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_classifier(without_weights(name), name)
    own = tuple(timm.get_pretrained_cfg(name, allow_unregistered=False).input_size)
    tried: list[tuple[dict[str, Any], int]] = [({}, side) for side in _SMALL]
    tried += [({"img_size": side}, side) for side in _SMALL] + [({}, own[1])]
    for dropped in (True, False):
        for options, side in tried:
            image = (own[0], side, side)
            try:
                with warnings.catch_warnings(), torch.no_grad():
                    warnings.simplefilter("ignore")
                    torch.manual_seed(0)
                    model = timm.create_model(name, pretrained=False, num_classes=_CLASSES, **options)
                    _unfuse(model.eval())
                    if dropped:
                        thin(model, torch.zeros(2, *image))
                    out = model(torch.zeros(2, *image))
                    model.train().eval()  # drops what some models store of their weights for later images
            except Exception:  # it takes no image of this size, or does not run without these blocks
                continue
            if isinstance(out, torch.Tensor) and out.shape == (2, _CLASSES):
                return model, image
    raise RuntimeError("it runs with no size of image that was tried")


def _unfuse(model: nn.Module) -> None:
    """Turns fused attention off, which runs on keys and values of different numbers when a block is dropped."""
    for part in model.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False


def disturb(model: nn.Module) -> None:
    """Adds noise to every parameter and to stored statistics, so that no part does nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            size = 0.5 * value[0].numel() ** -0.5 if value.ndim > 1 else 0.1
            value.add_(size * torch.randn(value.shape, generator=generator))
        for name, value in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.add_(torch.rand(value.shape, generator=generator))


def export(one: Exported, folder: Path) -> Iterator[Exported]:
    """Exports one graph in both formats, and yields what is known after each; of what is no classifier, that it is."""
    from ai_edge_litert.interpreter import Interpreter
    from onnxruntime import InferenceSession

    start = time.monotonic()
    try:
        model, image = smaller(one.name)
    except ModelError as error:
        yield replace(one, refused=str(error), seconds=round(time.monotonic() - start, 1))
        return
    disturb(model)
    one = replace(one, image=image, params=sum(value.numel() for value in model.parameters()))
    images = torch.randn(2, *image, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = model(images).numpy()
    plain_network(model)

    def onnx() -> Any:
        convert_to_onnx(model, image, folder / "model.onnx")
        return InferenceSession(folder / "model.onnx").run(None, {"image": images.numpy()})[0]

    def tflite() -> Any:
        convert_to_tflite(model, image, folder / "model.tflite")
        reader = Interpreter(str(folder / "model.tflite"), num_threads=1)
        reader.allocate_tensors()
        rows = []
        for row in images.permute(0, 2, 3, 1).numpy():
            reader.set_tensor(reader.get_input_details()[0]["index"], row[None].copy())
            reader.invoke()
            rows.append(reader.get_tensor(reader.get_output_details()[0]["index"]))
        return np.concatenate(rows)

    for way in (onnx, tflite):
        try:
            off = float(np.abs(way() - wanted).max() / np.abs(wanted).max())
            one = replace(one, **{way.__name__: off if np.isfinite(off) else None})
            if not np.isfinite(off):
                one = replace(one, **{f"{way.__name__}_error": "not a number"})
        except Exception as error:  # the census goes on, and the line says what went wrong
            one = replace(one, **{f"{way.__name__}_error": f"{type(error).__name__}: {error}".strip()[:600]})
        one = replace(one, seconds=round(time.monotonic() - start, 1))
        yield one


def isolated(one: Exported) -> Exported:
    """Exports one graph in a process with limits of time and memory; a process that dies is a failure."""
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        child = os.fork()
        if not child:
            code = 1
            try:
                resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
                for known in export(one, Path(scratch)):
                    answer.write_text(json.dumps(asdict(known)))
                code = 0
            except BaseException as error:  # the parent reads it
                failed = f"{type(error).__name__}: {error}".strip()[:600]
                answer.write_text(json.dumps(asdict(replace(one, onnx_error=failed, tflite_error=failed))))
            finally:
                os._exit(code)
        end, status = time.monotonic() + _SECONDS, 0
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.05)
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                break
        known = read_line(answer.read_text()) if answer.is_file() else None
        why = f"it took more than {_SECONDS} s" if status else "the converter's process died"
        known = known or replace(one, onnx_error=why)
        if known.tflite is None and known.tflite_error is None and known.refused is None:
            known = replace(known, tflite_error=why)
        return known


def read_line(text: str) -> Exported | None:
    """Returns a line of the census, or None for one that was cut off."""
    try:
        found = json.loads(text)
        return Exported(**found | {"image": tuple(found["image"])})
    except (ValueError, TypeError, KeyError):
        return None


def read(path: Path) -> dict[str, Exported]:
    """Returns the lines of a census by graph; the last line of a graph counts."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {one.graph: one for one in map(read_line, lines) if one is not None}


def take(chosen: Sequence[Grouped], path: Path, seconds: float, again: bool = False) -> None:
    """Exports the graphs that have no line yet, or that failed, until the time is up."""
    known, end = read(path), time.monotonic() + seconds
    with path.open("a", encoding="utf-8") as file:
        for own in chosen:
            if own.graph in known and not (again and not known[own.graph].settled):
                continue
            if time.monotonic() > end:
                print("The time is up. Run it again for the rest.")
                break
            one = isolated(Exported(own.graph, own.name, own.kind))
            file.write(json.dumps(asdict(one)) + "\n")
            file.flush()
            print(
                one.name, one.seconds, one.onnx, one.tflite, one.onnx_error, one.tflite_error, one.refused, flush=True
            )


def table(groups: Sequence[Grouped], found: dict[str, Exported]) -> str:
    """Returns the census as a Markdown table: a line for each class, with the reasons of its failures.

    What is refused by name counts in the last line alone.
    """
    lines = [
        "| class of timm | names | graphs | both files right | largest difference | reasons of the others |",
        "|---|---|---|---|---|---|",
    ]
    known = [own for own in representatives(groups) if own.graph in found]
    done = [own for own in known if found[own.graph].refused is None]
    refused = [own for own in known if found[own.graph].refused is not None]
    names = Counter(own.graph for own in groups if own.graph)
    kinds = Counter(own.kind for own in done)
    for kind in sorted(kinds, key=lambda kind: (-kinds[kind], kind)):
        ours = [found[own.graph] for own in done if own.kind == kind]
        good = [one for one in ours if one.sound]
        worst = max((max(one.onnx or 0.0, one.tflite or 0.0) for one in good), default=None)
        why = Counter(reason(one) for one in ours if not one.sound)
        texts = "; ".join(f"{text} ({number})" for text, number in why.most_common())
        counted = sum(names[one.graph] for one in ours)
        shown = "" if worst is None else f"{worst:.1e}"
        lines.append(f"| {kind} | {counted} | {len(ours)} | {len(good)} | {shown} | {texts} |")
    good = [own for own in done if found[own.graph].sound]
    total = sum(names[own.graph] for own in done), len(done), len(good)
    lines.append(f"| **all** | **{total[0]}** | **{total[1]}** | **{total[2]}** | | |")
    if refused:
        kinds = Counter(own.kind for own in refused)
        counted = sum(names[own.graph] for own in refused)
        lines.append(
            f"| no classifiers, refused by name | {counted} | {len(refused)} | | | {', '.join(sorted(kinds))} |"
        )
    return "\n".join(lines)


_CODES = re.compile(r"\x1b\[[0-9;]*m|/[^ ]*/site-packages/")
"""Colours of terminals, and where packages are installed."""


def reason(one: Exported) -> str:
    """Returns why a graph failed, in a few words."""
    parts = []
    for title, off, error in (("ONNX", one.onnx, one.onnx_error), ("TFLite", one.tflite, one.tflite_error)):
        if off is not None and off > MOST:
            parts.append(f"{title} differs by {off:.0e}")
        elif error is not None:
            parts.append(f"{title}: {_CODES.sub('', error).splitlines()[0][:100].strip()}")
    return ", ".join(parts).replace("|", "/")


def main() -> int:
    """Groups, exports, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="parts of names, or patterns; all of timm's names without")
    parser.add_argument("--out", type=Path, required=True, help="folder of groups.jsonl and exports.jsonl")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--group", action="store_true", help="find the graphs, and export nothing")
    parser.add_argument("--plans", type=Path, help="census.jsonl of census.py, to know which models have a plan")
    parser.add_argument("--again", action="store_true", help="export those that failed again")
    parser.add_argument("--table", action="store_true", help="print the table of the lines that are there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    names = list(dict.fromkeys(name for pattern in options.patterns or [None] for name in names_like(pattern)))
    groups, exports = options.out / "groups.jsonl", options.out / "exports.jsonl"
    if options.group:
        find_groups(names, groups, planned_in(options.plans) if options.plans else {})
    known = read_groups(groups)
    asked = [known[name] for name in names if name in known]
    if options.table:
        print(table(asked, read(exports)))
        return 0
    if not options.group:
        import litert_torch  # noqa: F401  every process has it then

        take(representatives(asked), exports, options.seconds, options.again)
    print(f"{len(asked)} names, {sum(own.own_path for own in asked)} with a plan, {len(representatives(asked))} graphs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
