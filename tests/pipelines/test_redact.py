from __future__ import annotations

import logging

import pytest

from pipelines.redact import RedactingFormatter, redact


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://ann:Pa55word@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://u:p%40ss@db/mlflow", "postgresql://***@db/mlflow"),
        ("s3://bucket/v.mp4?X-Amz-Signature=abcd&a=1", "s3://bucket/v.mp4?X-Amz-Signature=***&a=1"),
        ("https://h/v.mp4?sig=abcd", "https://h/v.mp4?sig=***"),
        ("DB_PASSWORD=hunter22 ok", "DB_PASSWORD=*** ok"),
        ('{"api_key": "k-1234", "key": "abc"}', '{"api_key": "***", "key": "abc"}'),
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer ***"),
        ("id AKIAABCDEFGHIJKLMNOP", "id ***"),
        ("use hf_ABCDEFGHIJKLMNOPQRST", "use ***"),
        ("use eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "use ***"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEow==\n-----END RSA PRIVATE KEY-----",
            "***-----END RSA PRIVATE KEY-----",
        ),
        ("use github_pat_11ABCDEFG0abcdefghij", "use ***"),
    ],
)
def test_secrets_are_taken_out(text, clean):
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "no token: start the cluster with one",
        "poses_key = 0a1b2c, sha256 = 99",
        "design=3, assigned=4, basic configuration of tokens",
        "user@host and http://host/a@b",
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert redact(text) == text


def test_values_of_secret_variables_are_taken_out_wherever_they_are(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "xx/very+secret")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/ann/token")
    told = {
        "a": ["xx/very+secret is", 3],
        "b": {"c": "xx%2Fvery%2Bsecret"},
        "d": "mode token /home/ann/token",
    }
    clean = {"a": ["*** is", 3], "b": {"c": "***"}, "d": "mode token /home/ann/token"}
    assert redact(told) == clean


def test_log_lines_and_tracebacks_are_clean():
    try:
        raise ValueError("http://ann:Pa55word@host")
    except ValueError as error:
        record = logging.LogRecord(
            "x", 30, "f", 1, "at %s", ("http://b:secret@h",), (type(error), error, None)
        )
    text = RedactingFormatter("%(message)s").format(record)
    assert "at http://***@h" in text
    assert "ValueError: http://***@host" in text
