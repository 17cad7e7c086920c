"""docs/papers.md says where each formula lives: every `file::name` of the two-stage part exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HOME = Path("aqa_models/two_stage")


def references() -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "papers.md").read_text()
    part = text[text.index("## Two-stage motion assessment") : text.index("## HP-MCoRe")]
    return sorted(set(re.findall(r"`([a-z_/]+\.py)::([A-Za-z_.0-9]+)", part)))


def names_in(path: Path) -> set[str]:
    """Top-level functions, classes and assignments, and Class.method."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize(("file", "name"), references(), ids="::".join)
def test_every_formula_is_where_the_table_says(file, name):
    path = ROOT / file if "/" in file else ROOT / HOME / file
    assert name in names_in(path), f"docs/papers.md names {file}::{name}"


def test_the_table_names_the_whole_model():
    files = {file.rpartition("/")[2] for file, _ in references()}
    helpers = {"__init__.py", "config.py", "guesses.py", "recurrent.py"}
    assert files >= {path.name for path in (ROOT / HOME).glob("*.py")} - helpers
