"""Write docs/configuration.md and docs/tables.md from the schemas, so that they agree with the code.

Run by `make docs`. `python docs/generate.py --check` writes nothing and fails if a page is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines import schema
from pipelines.settings import describe, flag_of, kind_name

DOCS = Path(__file__).parent
NOTE = "Written by `make docs` from `{source}`; edit that file instead.\n"


def configuration() -> str:
    """Every setting with its flag, type, default and meaning, one table per section."""
    lines = [
        "# Settings",
        "",
        NOTE.format(source="pipelines/config.py"),
        "Strength: flag > environment > TOML file > default. In TOML a setting `pretrain.model.paces` is the",
        "key `paces` of the table `[pretrain.model]`; in the environment AQA_PRETRAIN__MODEL__PACES; as a",
        "flag the verb already names the section. `aqa config show` tells where each value comes from.",
    ]
    section = None
    for setting in describe():
        if setting.path.partition(".")[0] != section:
            section = setting.path.partition(".")[0]
            lines += [
                "",
                f"## {section}",
                "",
                "| setting | flag | type | default | meaning |",
                "|---|---|---|---|---|",
            ]
        default = (
            ",".join(map(str, setting.default)) if isinstance(setting.default, tuple) else setting.default
        )
        cells = (
            f"`{setting.path}`",
            f"`{flag_of(setting.path)}`",
            kind_name(setting),
            "" if default in (None, "") else f"`{default}`",
            setting.meaning,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def tables() -> str:
    """Every column of every table with its type and meaning."""
    lines = ["# Tables", "", NOTE.format(source="pipelines/schema.py").rstrip()]
    for name, table in schema.TABLES.items():
        lines += ["", f"## {name}", "", "| column | type | required | meaning |", "|---|---|---|---|"]
        for field in table:
            meaning = (field.metadata or {}).get(b"meaning", b"").decode()
            required = "" if field.nullable else "yes"
            lines.append(f"| `{field.name}` | {field.type} | {required} | {meaning} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the pages, or with --check say which are out of date."""
    stale = []
    for name, text in (("configuration.md", configuration()), ("tables.md", tables())):
        page = DOCS / name
        if "--check" not in sys.argv:
            page.write_text(text, encoding="utf-8")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
