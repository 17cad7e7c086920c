"""One command-line flag per setting, made from the configuration's schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import Group, Parameter

_SETTINGS = Group("Settings (also in --config FILE and as AQA_SECTION__KEY)", sort_key=10)
_SECTION_OF: dict[Callable[..., Any], str] = {}


def settings(section: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a verb whose flags include the settings of one section of the configuration."""

    def mark(verb: Callable[..., Any]) -> Callable[..., Any]:
        _SECTION_OF[verb] = section
        return verb

    return mark


def section_of(verb: Callable[..., Any]) -> str:
    """The section whose settings are flags of this verb; empty if it has none."""
    return _SECTION_OF.get(verb, "")


def attach_settings(tokens: Sequence[str]) -> None:
    """Give the verbs named on this command line one flag per setting of their section.

    Only those verbs, because reading the schema costs more than all the rest of `aqa --help`.
    """
    for verb, section in _SECTION_OF.items():
        if verb.__name__.rstrip("_").replace("_", "-") not in tokens or hasattr(verb, "__signature__"):
            continue
        from pipelines.settings import describe, flag_of, kind_name

        signature = inspect.signature(verb, eval_str=True)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for setting in describe():
            if setting.path.partition(".")[0] not in (section, "tracking"):
                continue
            default = (
                ",".join(map(str, setting.default)) if isinstance(setting.default, tuple) else setting.default
            )
            shown = "" if default in (None, "") else f" [default: {default}]"
            option = Parameter(
                name=flag_of(setting.path),
                help=f"{setting.meaning} ({kind_name(setting)}){shown}",
                group=_SETTINGS,
                show_default=False,
                metavar=None if setting.kind is bool else "VALUE",
            )
            kind = bool if setting.kind is bool else str  # text: load_config is the one place that validates
            parameters.append(
                inspect.Parameter(
                    setting.path.replace(".", "__"),
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None,
                    annotation=Annotated[kind | None, option],
                )
            )
        verb.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]


def dotted(given: dict[str, Any]) -> dict[str, str]:
    """Keyword arguments made by `attach_settings` back to dotted paths and text."""
    return {key.replace("__", "."): str(value) for key, value in given.items() if value is not None}
