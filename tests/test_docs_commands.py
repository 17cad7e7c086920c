"""Every command on every page is one that the program takes: verbs, flags and values of settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from pipelines.errors import ConfigError

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
PREFIX = re.compile(r"^(?:[A-Z_]+=\S+ +)*(?:\.venv/bin/)?(?:aqa|python -m pipelines) +")


def commands(page: Path) -> list[str]:
    """Lines of the page's blocks that call the program, without what a shell would read as a comment."""
    found = []
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if match := PREFIX.match(line.strip()):
                found.append(line.strip()[match.end() :].replace(" ...", ""))
    return found


ALL = [(page.name, line) for page in PAGES for line in commands(page)]


def test_the_pages_have_commands():
    assert len(ALL) > 50
    assert {"README.md", "score.md", "cluster.md", "sweeps.md", "workflow.md"} <= {name for name, _ in ALL}


@pytest.mark.parametrize(("page", "line"), ALL, ids=[f"{page}: {line[:60]}" for page, line in ALL])
def test_the_program_takes_it(page: str, line: str):
    parse(shlex.split(line.partition(" > ")[0], comments=True))


@pytest.mark.parametrize(
    "line", ["scores a.mp4", "train expert --store s --no-such-flag 1", "train expert --epochs x"]
)
def test_a_wrong_one_would_be_found(line: str):
    with pytest.raises((CycloptsError, ConfigError)):
        parse(line.split())


def parse(tokens: list[str]) -> None:
    """As `main` does, without running the verb; what follows `--` is the command of a job."""
    from pipelines.cli import app
    from pipelines.flags import attach_settings, dotted
    from pipelines.settings import load_config

    own, job = (
        (tokens[: tokens.index("--")], tokens[tokens.index("--") + 1 :]) if "--" in tokens else (tokens, [])
    )
    attach_settings(own)
    _, taken, _ = app.meta.parse_args(own, exit_on_error=False, print_error=False)
    rest = [*taken.args, "--", *job] if job else list(taken.args)
    command, bound, _ = app.parse_args(rest, exit_on_error=False, print_error=False)
    assert command.__name__ != "help_print", f"{own} only prints help"
    settings = {name: value for name, value in bound.kwargs.items() if "__" in name}
    load_config(flags=dotted(settings))
    if job:
        parse(job)
