from __future__ import annotations

import pytest

from cluster.secret import SecretFound, check, redacted, secret_in, values_of

# Put together here, so that no scanner takes this file for a leak.
AWS = "AK" + "IA" + "IOSFODNN7EXAMPLE"
GITHUB = "gh" + "p_" + "a1B2" * 9
PEM = "-----BEGIN " + "PRIVATE KEY-----\nMIIEvQIBADAN" + "Bgkqhki\n"
PLANTED = {
    "aws": (f"aws {AWS} end", AWS),
    "google": ("key AI" + "za" + "B" * 35, "AI" + "za" + "B" * 35),
    "github": (f"git {GITHUB}", GITHUB),
    "hugging face": ("hf" + "_" + "x" * 34, "hf" + "_" + "x" * 34),
    "slack": ("xo" + "xb-123456789012-abc", "xo" + "xb-123456789012-abc"),
    "databricks": ("dapi" + "0f" * 16, "dapi" + "0f" * 16),
    "jwt": (
        "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0.c2ln",
        "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0.c2ln",
    ),
    "pem": (PEM, "MIIEvQIBADAN"),
    "mlflow uri": ("https://anna:" + "hunter22@mlflow.example/x", "hunter22"),
    "database": ("postgresql://:" + "pa55word@db/x", "pa55word"),
    "signed": ("https://b.example/c.mp4?sv=1&" + "sig=abcDEF123%3D&x=1", "abcDEF123%3D"),
    "s3 signed": ("https://b.example/c?X-Amz-" + "Signature=0123456789abcdef", "0123456789abcdef"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_secrets_are_seen_and_hidden(name):
    text, hidden = PLANTED[name]
    assert hidden in text
    assert secret_in(text)
    with pytest.raises(SecretFound, match=r"^here: .* would be readable in the cluster's dashboard and logs"):
        check("here", text)
    shown = redacted(f"before {text} after")
    assert hidden not in shown
    assert shown.startswith("before ")
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "aqa extract clips.csv --store s3://bucket/store",
        "abfss://container@account.dfs.core.windows.net/store",
        "http://10.0.0.1:8265",
        "https://host:443/path?page=2&token_count=3",
        "sha256 " + "0f" * 32,
        "postgresql://anna@db/x",
    ],
)
def test_harmless_text_is_left_alone(text):
    assert secret_in(text) == ""
    assert redacted(text) == text
    check("here", text, by_name=True)


@pytest.mark.parametrize("text", ["--password hunter2222", "DB_TOKEN=abcdefgh", "api-key: 'abcdefgh'"])
def test_values_named_as_secrets_are_refused_in_commands_only(text):
    check("program text", text)
    with pytest.raises(SecretFound, match="a value named as a secret") as caught:
        check("the command", text, by_name=True)
    assert "hunter2222" not in str(caught.value)
    assert "abcdefgh" not in str(caught.value)


def test_secrets_of_the_environment_are_known_by_their_names(tmp_path):
    key_file = tmp_path / "key"
    key_file.touch()
    environment = {
        "MLFLOW_TRACKING_PASSWORD": "correct horse",
        "RAY_AUTH_TOKEN": "ab" * 32,
        "RAY_AUTH_TOKEN_PATH": str(key_file),
        "TOKENIZERS_PARALLELISM": "false",
        "HOME": "/home/anna-and-bob",
    }
    values = values_of(environment)
    assert values == {"correct horse", "correct%20horse", "ab" * 32}
    assert secret_in("x=" + "ab" * 32, values) == "the value of a secret environment variable"
    assert redacted("uri?p=correct%20horse and correct horse", values) == "uri?p=*** and ***"


def test_program_text_that_only_looks_like_it_is_no_secret():
    check("x.py", 'uri = f"https://{user}:{password}@{host}"')
