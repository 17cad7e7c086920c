"""Takes secrets out of texts before they are logged, recorded or sent.

A secret is the value of an environment variable whose name says so, a password or token in a URI, or a text
of the form of a known key. What looks like none of these cannot be recognised.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any
from urllib.parse import quote

from cluster.secret import HIDDEN, redacted

_SHORTEST = 6  # a shorter value, such as RAY_AUTH_MODE=token, would blot out ordinary words
_WORDS = r"token|secret|passw(?:or)?d|credential|api_?key|access_?key|private_?key|signature"
_SECRET_NAME = re.compile(rf"(?i)({_WORDS}|_key$|_auth|auth_)")
_NO_SECRET_NAME = re.compile(r"(?i)_(path|file|mode|dir|type)$")
_FORMS = (
    # user:password@ and token@ in a URI
    (re.compile(r"(?<=://)[^/\s@'\"]+@"), HIDDEN + "@"),
    # name=value, and 'name': 'value' of JSON or Python, where the name says that the value is secret
    (re.compile(rf"(?i)([\w-]*(?:{_WORDS}|awsaccesskeyid)[\w-]*=)[^\s&\"',;)}}]+"), r"\1" + HIDDEN),
    (re.compile(r"(?i)([?&](?:sig|key|code)=)[^\s&\"']+"), r"\1" + HIDDEN),
    (re.compile(rf"(?i)([\"'][\w-]*(?:{_WORDS})[\w-]*[\"']\s*:\s*[\"'])[^\"']+"), r"\1" + HIDDEN),
    (re.compile(r"(?i)\b(bearer|authorization: basic)\s+[\w.~+/=-]{8,}"), r"\1 " + HIDDEN),
)


def redact(value: Any) -> Any:
    """The same text, list or dict with every secret in it replaced by ***."""
    if isinstance(value, dict):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if not isinstance(value, str):
        return value
    value = redacted(value, _secrets())  # first whole, before a form hides a part of one
    for form, instead in _FORMS:
        value = form.sub(instead, value)
    return value


def _secrets() -> set[str]:
    """Secret values of the environment, as they are and as a URI spells them."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name)
    }
    return found | {quote(value, safe="") for value in found}


class RedactingFormatter(logging.Formatter):
    """Formats a record and its traceback, then takes the secrets out."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
