"""The rules of the house: who may import whom, what may never be called, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("aqa_models", "pipelines", "cluster")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALL_PYTHON = FILES + sorted(
    p for folder in ("tests", "benchmarks", "docs") for p in (ROOT / folder).rglob("*.py")
)
STDLIB = sys.stdlib_module_names | {"__future__"}
MAX_FILE, MAX_FUNCTION = 500, 70

MODEL_LIBRARIES = {"torch", "numpy", "scipy", "einops", "timm", "aqa_models"}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of everything imported anywhere in the file, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Call) and _called(node) in ("importlib.import_module", "__import__"):
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    return found


def _called(node: ast.Call) -> str:
    """`ray.init` for ray.init(...), `.map_batches` for anything().map_batches(...)."""
    parts, target = [], node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    parts.append(target.id if isinstance(target, ast.Name) else "")
    return ".".join(reversed(parts))


def broken_import_rules(file: str, tree: ast.AST) -> list[str]:
    """What this file imports although the house forbids it."""
    tops = {name.partition(".")[0]: name for name in imports(tree)}
    package = file.partition("/")[0]
    forbidden: set[str] = set()
    if package == "aqa_models":
        forbidden |= set(tops) - STDLIB - MODEL_LIBRARIES
    if package == "cluster":
        forbidden |= set(tops) - STDLIB - {"ray", "cluster"}
    if file.startswith("pipelines/datasets/"):
        forbidden |= set(tops) & {"ray", "torch"}
    if file not in ("pipelines/tracking.py", "pipelines/served_model.py"):
        forbidden |= set(tops) & {"mlflow"}
    if file != "pipelines/workflow.py":
        forbidden |= set(tops) & {"metaflow"}
    forbidden |= set(tops) & {"tests", "benchmarks"}
    return [f"{file} imports {tops[top]}" for top in sorted(forbidden)]


def broken_call_rules(file: str, tree: ast.AST) -> list[str]:
    """What this file calls although the house forbids it."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = _called(node)
        keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        wrong = (
            (name == "ray.init" and file != "cluster/connect.py")
            or (name.endswith(".map_batches") and file != "pipelines/stages/base.py")
            or name
            in ("pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system")
            or name.startswith(("dill.", "joblib.load"))
            or (name == "torch.load" and keywords.get("weights_only") is not True)
            or keywords.get("shell") is True
            or keywords.get("allow_pickle") is True
            or (name in ("np.load", "numpy.load") and keywords.get("allow_pickle") is not False)
        )
        if wrong:
            found.append(f"{file}:{node.lineno} calls {name}")
    return found


def too_long(file: str, text: str, tree: ast.AST) -> list[str]:
    found = [f"{file} has {n} lines"] if (n := len(text.splitlines())) > MAX_FILE else []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                found.append(f"{file}:{node.lineno} {node.name} has {length} lines")
    return found


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_import_directions(path: Path) -> None:
    assert not broken_import_rules(_name(path), ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_nothing_a_user_feeds_in_can_execute(path: Path) -> None:
    assert not broken_call_rules(_name(path), ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", ALL_PYTHON, ids=_name)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not too_long(_name(path), text, ast.parse(text))


def test_tests_have_no_init_files() -> None:
    """tests/pipelines would shadow the package pipelines."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def _loaded_by(code: str, names: str) -> str:
    """Which of `names` (space separated) are loaded after running `code` in a fresh interpreter."""
    probe = f"import sys\n{code}\nprint(*[n for n in '{names}'.split() if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_models_load_neither_ray_nor_mlflow_nor_arrow() -> None:
    modules = [
        _name(p).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for p in (ROOT / "aqa_models").rglob("*.py")
    ]
    code = "import " + ", ".join(sorted(modules))
    assert _loaded_by(code, "ray mlflow pyarrow pandas pipelines cluster cv2") == ""


def test_adapters_load_neither_ray_nor_torch() -> None:
    modules = [f"pipelines.datasets.{p.stem}" for p in (ROOT / "pipelines/datasets").glob("[a-z]*.py")]
    assert _loaded_by("import " + ", ".join(["pipelines", *sorted(modules)]), "ray torch mlflow") == ""


FORBIDDEN = [
    ("aqa_models/x.py", "def f():\n    import pyarrow", "imports pyarrow"),
    ("aqa_models/x.py", "from pipelines.store import read", "imports pipelines.store"),
    ("cluster/x.py", "import pipelines.errors", "imports pipelines.errors"),
    ("pipelines/datasets/x.py", "from torch import nn", "imports torch"),
    ("pipelines/x.py", "import mlflow.pytorch", "imports mlflow.pytorch"),
    ("pipelines/tracking.py", "from metaflow import step", "imports metaflow"),
    ("pipelines/x.py", "import importlib\nimportlib.import_module('mlflow')", "imports mlflow"),
    ("pipelines/x.py", "ray.init()", "calls ray.init"),
    ("pipelines/x.py", "ray.data.range(3).map_batches(f)", "calls .map_batches"),
    ("pipelines/x.py", "torch.load(p)", "calls torch.load"),
    ("pipelines/x.py", "torch.load(p, weights_only=False)", "calls torch.load"),
    ("pipelines/x.py", "np.load(p)", "calls np.load"),
    ("pipelines/x.py", "np.load(p, allow_pickle=True)", "calls np.load"),
    ("pipelines/x.py", "subprocess.run('ls', shell=True)", "calls subprocess.run"),
    ("pipelines/x.py", "pickle.loads(b)", "calls pickle.loads"),
    ("pipelines/x.py", "eval('1')", "calls eval"),
]


@pytest.mark.parametrize(("file", "code", "expected"), FORBIDDEN)
def test_the_rules_notice(file: str, code: str, expected: str) -> None:
    tree = ast.parse(code)
    found = broken_import_rules(file, tree) + broken_call_rules(file, tree)
    assert any(expected in text for text in found), found


ALLOWED = [
    ("pipelines/tracking.py", "import mlflow"),
    ("cluster/connect.py", "import ray\nray.init()"),
    ("pipelines/stages/base.py", "data.map_batches(f)"),
    ("pipelines/x.py", "model.eval()\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)"),
    ("aqa_models/x.py", "import math\nimport torch.nn.functional as F\nfrom aqa_models import skeletons"),
]


@pytest.mark.parametrize(("file", "code"), ALLOWED)
def test_the_rules_let_pass(file: str, code: str) -> None:
    tree = ast.parse(code)
    assert not broken_import_rules(file, tree) + broken_call_rules(file, tree)
