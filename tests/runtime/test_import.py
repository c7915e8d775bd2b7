from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import runtime

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "timm", "PIL", "onnx", "onnxruntime", "ai_edge_litert", "litert_torch", "safetensors")


def in_child(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_runtime_imports_numpy_alone() -> None:
    code = f"import sys, runtime; print([name for name in {HEAVY} if name in sys.modules], 'numpy' in sys.modules)"
    assert in_child(code) == "[] True"


def test_reading_a_plan_and_preparing_pixels_needs_nothing_but_numpy() -> None:
    block = "\n".join(f"sys.modules[{name!r}] = None" for name in HEAVY)
    code = (
        f"import sys\n{block}\nimport numpy, runtime\n"
        "from pathlib import Path\n"
        "plan = runtime.PLAN_DOCUMENT.read(Path('tests/golden/plan-v1.json'))\n"
        "spec = runtime.Preprocessing(8, 8, 1, (0.5,), (0.5,))\n"
        "print(runtime.params(plan) > 0, runtime.preprocess(numpy.zeros((8, 8), 'u1'), spec).max())"
    )
    assert in_child(code) == "True -1.0"


def test_predicting_does_not_import_torch() -> None:
    code = (
        "import sys, numpy, runtime\nfrom pathlib import Path\n"
        "engine = runtime.open_engine(Path('tests/golden/tiny-fp32.tflite'))\n"
        "engine.run(numpy.zeros(engine.input_shape, 'f4'))\n"
        "print([name for name in ('torch', 'PIL', 'onnxruntime') if name in sys.modules])"
    )
    assert in_child(code) == "[]"


def test_opening_a_file_imports_no_other_engine() -> None:
    # how long opening takes is measured, and the others would count in it
    code = (
        "import sys, runtime\nfrom pathlib import Path\n"
        "runtime.open_engine(Path('tests/golden/tiny-fp32.tflite'))\n"
        "print([name for name in ('torch', 'onnxruntime') if f'runtime.engines.{name}' in sys.modules])"
    )
    assert in_child(code) == "[]"


def test_all_public_names_are_there_once() -> None:
    for name in runtime.__all__:
        assert getattr(runtime, name) is not None
    assert len(set(runtime.__all__)) == len(runtime.__all__)


def test_no_test_here_imports_torch() -> None:
    pattern = re.compile(r"^\s*(import|from)\s+(torch|timm|litert_torch|ai_edge_quantizer)\b", re.MULTILINE)
    files = list(Path(__file__).parent.glob("*.py"))
    assert len(files) > 10
    assert [file.name for file in files if pattern.search(file.read_text(encoding="utf-8"))] == []
