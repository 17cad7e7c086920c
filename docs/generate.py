"""Write configuration.md, tables.md, skeletons.md and errors.md from the code, so that they agree with it.

Run by `make docs`. `python docs/generate.py --check` writes nothing and fails if a page is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aqa_models.skeletons import SKELETONS
from pipelines import errors, schema
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


def skeletons() -> str:
    """Joints, bones and limbs of every joint set."""
    lines = [
        "# Skeletons",
        "",
        NOTE.format(source="aqa_models/skeletons.py"),
        "Joints are named by anatomy, so two sets that share a point share its name, and one set is mapped",
        "to another by name. Limbs are what inpainting hides: arm and leg of each side, from the torso.",
    ]
    for item in SKELETONS.values():
        lines += ["", f"## {item.name}", "", f"{len(item.joints)} joints, root {item.root}.", ""]
        lines += ["| index | joint | bones to | other side | limb |", "|---|---|---|---|---|"]
        bones = [[item.joints[a] for a, b in item.bones if b == child] for child in range(len(item.joints))]
        limbs = {index: limb for limb, indices in item.limbs.items() for index in indices}
        for index, joint in enumerate(item.joints):
            other = item.joints[item.flip_order[index]]
            cells = (str(index), joint, ", ".join(bones[index]), "" if other == joint else other)
            lines.append("| " + " | ".join((*cells, limbs.get(index, ""))) + " |")
    return "\n".join(lines) + "\n"


def error_codes() -> str:
    """Exit codes, and the codes of rejected clips."""
    lines = [
        "# Errors",
        "",
        NOTE.format(source="pipelines/errors.py"),
        "A text names the file, row or setting, the cause and the remedy; `--verbose` adds the traceback.",
        "",
        "## Exit codes",
        "",
        "| code | error | meaning |",
        "|---|---|---|",
        "| 0 | | done |",
        "| 1 | | a bug: please report it with the output of `--verbose` |",
    ]
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    for kind in sorted(kinds, key=lambda kind: getattr(kind, "exit_code", 0)):
        if getattr(kind, "exit_code", 1) > 1:
            meaning = (kind.__doc__ or "").splitlines()[0].rstrip(".")
            lines.append(f"| {kind.exit_code} | {kind.__name__} | {meaning} |")
    lines += ["| 130 | | interrupted; the same command goes on |", "", "## Rejected clips", ""]
    lines += [
        "A clip that cannot be used becomes one row with status `rejected` and one of these codes; it never",
        "stops a run. `aqa store inspect STORE` counts them.",
        "",
        "| code | what happened, and what to do |",
        "|---|---|",
    ]
    lines += [f"| `{code}` | {meaning} |" for code, meaning in errors.REJECT_CODES.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the pages, or with --check say which are out of date."""
    stale = []
    pages = {"configuration.md": configuration, "tables.md": tables, "skeletons.md": skeletons}
    for name, write in {**pages, "errors.md": error_codes}.items():
        text = write()
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
