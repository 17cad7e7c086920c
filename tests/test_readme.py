"""The README is the map: it lists every source file, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("aqa_models", "pipelines", "cluster", "benchmarks", "docs")
    for path in (ROOT / package).rglob("*")
    if path.suffix in (".py", ".md") and path.name != "__init__.py"
)
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("source", SOURCES)
def test_map_lists_every_source_file(source: str) -> None:
    """By its name on a line below its folder; adding a file without its line is an unfinished change."""
    name = Path(source).name
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", README), f"README's map lacks {source}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    missing = [
        t
        for t in targets
        if not t.startswith(("http://", "https://", "mailto:")) and not ((ROOT / page).parent / t).exists()
    ]
    assert not missing


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
