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

HIDDEN = "***"
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
    # keys of AWS, GitHub, GitLab, Hugging Face and Databricks
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), HIDDEN),
    (re.compile(r"\b(?:gh[pousr]_|glpat-|hf_|dapi)[\w-]{16,}"), HIDDEN),
)


def redact(value: Any) -> Any:
    """The same text, list or dict with every secret in it replaced by ***."""
    if isinstance(value, dict):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if not isinstance(value, str):
        return value
    for secret in _secrets():
        value = value.replace(secret, HIDDEN)
    for form, instead in _FORMS:
        value = form.sub(instead, value)
    return value


def _secrets() -> list[str]:
    """Secret values of the environment, as they are and as a URI spells them; the longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name)
    }
    return sorted(found | {quote(value, safe="") for value in found}, key=len, reverse=True)


class RedactingFormatter(logging.Formatter):
    """Formats a record and its traceback, then takes the secrets out."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
