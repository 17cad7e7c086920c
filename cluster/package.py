"""What a job carries to the cluster: the three packages of this program, and nothing else.

Files are taken by an allow-list of places and endings, never by a list of what to leave out: no data, no
.git, no notes, no keys. The archive of the same sources has the same bytes, so it is sent once.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster import secret
from cluster.connect import ClusterUnavailable

PACKAGES = ("aqa_models", "pipelines", "cluster")
ENDINGS = (".py", ".safetensors")
LIMIT_BYTES = 50 * 1024**2
"""Ray's dashboard takes at most 100 MiB; this program has 5."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip file knows


@dataclass(frozen=True)
class Package:
    """An archive ready to be sent.

    Args:
        path: the zip file.
        digest: SHA-256 of its bytes.
        files: how many it holds.
        size: its bytes.
    """

    path: Path
    digest: str
    files: int
    size: int

    def __str__(self) -> str:
        return f"{self.files} files, {self.size / 1024**2:.1f} MiB, sha256 {self.digest[:12]}"


def sources(root: Path) -> list[Path]:
    """The files that a job carries, relative to `root`, sorted; links are not followed."""
    found = []
    for package in PACKAGES:
        for folder, folders, names in os.walk(root / package):
            folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
            paths = [Path(folder) / name for name in names if name.endswith(ENDINGS) and name[0] != "."]
            found += [path.relative_to(root) for path in paths if not path.is_symlink()]
    return sorted(found)


def build(folder: Path, root: Path | None = None, secrets: Iterable[str] = ()) -> Package:
    """Write the archive into `folder`.

    Args:
        folder: where the zip file goes.
        root: the folder that holds the packages; None = those that run now.
        secrets: values that must not be in it, see `secret.values_of`.

    Raises:
        ClusterUnavailable: larger than `LIMIT_BYTES`.
        secret.SecretFound: a file holds a key or password.
    """
    root = root or Path(__file__).parent.parent
    files, known = sources(root), tuple(secrets)
    sizes = {file: (root / file).stat().st_size for file in files}
    if sum(sizes.values()) > LIMIT_BYTES:
        raise _too_large(root, sizes)
    path = folder / "aqa.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            content = (root / file).read_bytes()
            if file.suffix == ".py":
                secret.check(str(file), content.decode("utf-8", "replace"), known)
            entry = zipfile.ZipInfo(file.as_posix(), _EPOCH)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    content = path.read_bytes()
    return Package(path, hashlib.sha256(content).hexdigest(), len(files), len(content))


def _too_large(root: Path, sizes: dict[Path, int]) -> ClusterUnavailable:
    largest = sorted(sizes, key=lambda file: -sizes[file])[:10]
    listed = ", ".join(f"{file} ({sizes[file] / 1024**2:.1f} MiB)" for file in largest)
    return ClusterUnavailable(
        str(root),
        f"the sources have {sum(sizes.values()) / 1024**2:.0f} MiB, a job may carry "
        f"{LIMIT_BYTES // 1024**2}; the largest: {listed}",
        "Move these files out of the packages",
    )
