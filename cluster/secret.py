"""Recognises passwords, keys and tokens in text, so that none leaves this machine or reaches a log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

HIDDEN = "***"

# What is certainly a secret, wherever it stands: (what it is, how it looks; group 1, if any, is the secret).
_SHAPES = (
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\s]+")),
    ("an AWS key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a Google key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_|github_pat_)[\w-]{16,}")),
    ("a token", re.compile(r"\b(?:(?:hf_|glpat-)[\w-]{16,}|dapi[0-9a-f]{16,}|xox[abprs]-[0-9A-Za-z-]{10,})")),
    ("a JSON web token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+")),
    ("a URI with a password", re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"{}]*:([^\s/@'\"{}]+)@")),
    (
        "a signed URI",
        re.compile(r"[?&](?:sig|signature|token|password|secret|x-amz-signature)=([^\s&'\"{}]{8,})", re.I),
    ),
)
_TELLING = r"(?:token|secret|passw(?:or)?d|credential|api_?key|access_?key|private_?key|auth_?key)"
_TELLING_NAME = re.compile(_TELLING, re.I)
_TELLING_WORD = rf"[\w-]*{_TELLING.replace('_?', '[_-]?')}[\w-]*"
_NAMED_VALUE = re.compile(rf"{_TELLING_WORD}[=:\s]\s*['\"]?([^\s'\"]{{8,}})", re.I)


class SecretFound(Exception):
    """Something that would be readable by everybody on the cluster holds a secret.

    Args:
        where: the variable, argument or file; never the secret.
        cause: what is wrong, one sentence without a full stop.
        remedy: what to do about it, likewise.
    """

    def __init__(self, where: str, cause: str, remedy: str):
        super().__init__(where, cause, remedy)
        self.where, self.cause, self.remedy = where, cause, remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.cause}. {self.remedy}."


def values_of(environment: Mapping[str, str]) -> set[str]:
    """Values of the variables whose name says that they are secret, as they are and as URIs write them."""
    values = {
        value.strip()
        for name, value in environment.items()
        if _TELLING_NAME.search(name) and len(value.strip()) >= 8 and not os.path.exists(value.strip())
    }
    return values | {quote(value, safe="") for value in values}


def secret_in(text: str, values: Iterable[str] = ()) -> str:
    """What kind of secret the text holds; empty if none is seen.

    Args:
        text: anything.
        values: secrets known to be such, see `values_of`.
    """
    if any(value in text for value in values):
        return "the value of a secret environment variable"
    return next((kind for kind, shape in _SHAPES if shape.search(text)), "")


def check(where: str, text: str, values: Iterable[str] = (), *, by_name: bool = False) -> None:
    """Refuse a text that holds a secret.

    Args:
        where: how the error names the text.
        text: anything.
        values: secrets known to be such, see `values_of`.
        by_name: also refuse `password=...`, `--token ...` and the like; program text has too many of them.

    Raises:
        SecretFound: there is one.
    """
    kind = secret_in(text, values)
    if not kind and by_name and _NAMED_VALUE.search(text):
        kind = "a value named as a secret"
    if kind:
        raise SecretFound(
            where,
            f"{kind} would be readable in the cluster's dashboard and logs",
            "Put it on the nodes (environment, file or secret manager) and leave it out here",
        )


def redacted(text: str, values: Iterable[str] = ()) -> str:
    """The text with *** in place of every secret seen in it."""
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for _, shape in _SHAPES:
        text = shape.sub(_hide, text)
    return text


def _hide(match: re.Match[str]) -> str:
    if not match.re.groups:
        return HIDDEN
    return match.group(0).replace(match.group(1), HIDDEN)
