"""Makes the fixtures of the tree anew in a copy of it and compares: ./run test-slow, packages as requirements.txt.

Files are equal byte for byte, or hold the same up to the arithmetic of another processor: safetensors to 1e-5 of the
largest element (integers exactly), JSON numbers to 1e-4, facts about near ties and checksums of such files apart.
"""

import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

from safetensors import safe_open

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = "tests/tokenizer/data"
# Script, its arguments, the folder it writes. Scripts that need a large corpus beside the tree are not among them.
SCRIPTS = [
    ("tests/golden/make_models.py", [], "tests/golden"),
    ("tests/golden/make_mtp.py", [], "tests/golden"),
    ("tests/config/make_fixtures.py", [], "tests/config/data"),
    ("tests/formats/make_safetensors_fixture.py", [], "tests/formats/data"),
    ("tests/train/make_event_fixture.py", [], "tests/train/data"),
    ("tests/tokenizer/make_golden.py", ["--samples", "samples"], DATA),
    ("tests/tokenizer/make_tiktoken.py", [], DATA + "/kimi"),
]


def same_tensors(ours, theirs):
    with safe_open(ours, "pt") as a, safe_open(theirs, "pt") as b:
        if set(a.keys()) != set(b.keys()):
            return f"other tensors: {sorted(set(a.keys()) ^ set(b.keys()))[:5]}"
        for name in a.keys():
            x, y = a.get_tensor(name), b.get_tensor(name)
            if x.dtype != y.dtype or x.shape != y.shape:
                return f"{name}: {x.dtype} {list(x.shape)} became {y.dtype} {list(y.shape)}"
            x, y = x.double(), y.double()
            bound = 1e-5 * x.abs().max().item() if a.get_tensor(name).is_floating_point() and x.numel() else 0
            if x.numel() and (x - y).abs().max().item() > bound:
                return f"{name}: differs by {(x - y).abs().max().item():.3g}, allowed {bound:.3g}"
    return None


def same_json(ours, theirs, path=""):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return f"{path}: other keys {sorted(ours.keys() ^ theirs.keys())}"
        pairs = [(k, ours[k], theirs[k]) for k in ours if k not in ("sha256", "files")]
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return f"{path}: {len(ours)} entries became {len(theirs)}"
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(ours, theirs))]
    elif isinstance(ours, float) and isinstance(theirs, (int, float)):
        close = math.isclose(ours, theirs, rel_tol=1e-4, abs_tol=1e-5)
        return None if close else f"{path}: {ours} became {theirs}"
    else:
        return None if ours == theirs else f"{path}: {ours!r} became {theirs!r}"
    return next((fault for k, a, b in pairs if (fault := same_json(a, b, f"{path}.{k}"))), None)


def fault_of(ours, theirs):
    """Why the file made anew is not the one in the tree; None: it is."""
    if not ours.exists():
        return "is not in the tree"
    if ours.read_bytes() == theirs.read_bytes():
        return None
    if ours.suffix == ".safetensors":
        return same_tensors(ours, theirs)
    if ours.suffix == ".json":
        return same_json(json.loads(ours.read_text()), json.loads(theirs.read_text()))
    return "differs"


def main():
    passed = failed = 0
    with tempfile.TemporaryDirectory() as name:
        copy = pathlib.Path(name)
        shutil.copytree(ROOT / "tests", copy / "tests")
        shutil.copytree(ROOT / "assets/tokenizer", copy / "assets/tokenizer")
        shutil.copytree(ROOT / DATA / "files", copy / "samples")
        shutil.copy(ROOT / DATA / "golden.jsonl", copy / "samples")
        for script, arguments, folder in SCRIPTS:
            before = {p: p.stat().st_mtime_ns for p in (copy / folder).rglob("*") if p.is_file()}
            result = subprocess.run([sys.executable, script, *arguments], cwd=copy, capture_output=True, text=True)
            if result.returncode != 0:
                print(f"{script} failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
                failed += 1
                continue
            written = [
                p
                for p in sorted((copy / folder).rglob("*"))
                if p.is_file() and "__pycache__" not in p.parts and before.get(p) != p.stat().st_mtime_ns
            ]
            assert written, f"{script} wrote nothing below {folder}"
            for path in written:
                relative = path.relative_to(copy)
                fault = fault_of(ROOT / relative, path)
                failed += fault is not None
                passed += fault is None
                if fault:
                    print(f"{relative} ({script}): {fault}")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
