from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from cluster import package
from cluster.connect import ClusterUnavailable
from cluster.secret import SecretFound

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def tree(tmp_path):
    """A folder with the three packages and much that must stay at home."""
    root = tmp_path / "root"
    wanted = {
        "aqa_models/__init__.py": "",
        "pipelines/cli.py": "print('hello')\n",
        "pipelines/rendered/net.safetensors": "weights",
        "cluster/jobs.py": "x = 1\n",
    }
    unwanted = [
        ".env",
        ".git/config",
        "data/clips.csv",
        "setup.py",
        "pipelines/.env",
        "pipelines/.secret.py",
        "pipelines/keys.pem",
        "pipelines/credentials.json",
        "pipelines/clip.mp4",
        "pipelines/.git/hooks/x.py",
        "pipelines/__pycache__/cli.py",
        "tests/test_x.py",
        "cluster/k8s/secret.yaml",
    ]
    for name, text in wanted.items() | {(name, "PLANTED") for name in unwanted}:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "outside.py").write_text("PLANTED")
    (root / "pipelines/link.py").symlink_to(tmp_path / "outside.py")
    (root / "pipelines/folder").symlink_to(tmp_path, target_is_directory=True)
    return root, sorted(wanted)


def test_only_the_allowed_files_travel(tree, tmp_path):
    root, wanted = tree
    built = package.build(tmp_path, root)
    with zipfile.ZipFile(built.path) as archive:
        assert archive.namelist() == wanted
        assert not any(b"PLANTED" in archive.read(name) for name in archive.namelist())
        assert archive.read("pipelines/cli.py") == b"print('hello')\n"
    assert built.files == 4
    assert built.size == built.path.stat().st_size
    assert str(built).startswith("4 files, 0.0 MiB, sha256 ")


def test_the_same_sources_give_the_same_bytes(tree, tmp_path):
    root, _ = tree
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = package.build(tmp_path / "one", root)
    (root / "pipelines/cli.py").touch()
    second = package.build(tmp_path / "two", root)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.digest == second.digest
    (root / "pipelines/cli.py").write_text("print('other')\n")
    assert package.build(tmp_path / "two", root).digest != first.digest


def test_a_key_in_a_source_file_is_refused_and_not_shown(tree, tmp_path):
    root, _ = tree
    key = "AK" + "IA" + "IOSFODNN7EXAMPLE"
    (root / "pipelines/cli.py").write_text(f"KEY = '{key}'\n")
    with pytest.raises(SecretFound, match=r"^pipelines/cli.py: an AWS key would be readable") as caught:
        package.build(tmp_path, root)
    assert key not in str(caught.value)


def test_a_secret_of_the_environment_in_a_source_file_is_refused(tree, tmp_path):
    root, _ = tree
    (root / "cluster/jobs.py").write_text("x = 'correct horse'\n")
    with pytest.raises(SecretFound, match=r"^cluster/jobs.py: the value of a secret environment variable"):
        package.build(tmp_path, root, {"correct horse"})


def test_too_large(tree, tmp_path, monkeypatch):
    root, _ = tree
    (root / "aqa_models/big.safetensors").write_bytes(bytes(3 * 1024**2))
    monkeypatch.setattr(package, "LIMIT_BYTES", 2 * 1024**2)
    with pytest.raises(ClusterUnavailable, match=r"3 MiB, a job may carry 2; the largest: aqa_models/big"):
        package.build(tmp_path, root)


def test_this_program_can_be_sent(tmp_path):
    built = package.build(tmp_path)
    with zipfile.ZipFile(built.path) as archive:
        names = set(archive.namelist())
    assert {"pipelines/cli.py", "aqa_models/metrics.py", "cluster/probe.py"} <= names
    assert "pipelines/rendered/pose_network.safetensors" in names
    assert {name.partition("/")[0] for name in names} == set(package.PACKAGES)
    assert len(names) == sum(
        1
        for part in package.PACKAGES
        for path in (ROOT / part).rglob("*")
        if path.suffix in (".py", ".safetensors") and "__pycache__" not in path.parts
    )
    assert built.size < 10 * 1024**2
