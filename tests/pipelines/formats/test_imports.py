from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipelines.formats import FORMATS
from pipelines.formats.export_poses import _WRITERS, MODULES
from pipelines.formats.import_poses import _READERS

ROOT = Path(__file__).parents[3]


def test_formats_load_neither_ray_nor_torch() -> None:
    names = sorted(path.stem for path in (ROOT / "pipelines/formats").glob("[a-z]*.py"))
    code = "import sys, " + ", ".join(f"pipelines.formats.{name}" for name in names)
    code += "\nprint([name for name in ('ray', 'torch', 'mlflow', 'cv2', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_child_imports_nothing_of_the_package() -> None:
    text = (ROOT / "pipelines/formats/pickle_child.py").read_text()
    assert "import pipelines" not in text
    assert "from pipelines" not in text


def test_every_format_is_written_and_read() -> None:
    assert list(FORMATS) == list(MODULES) == list(_WRITERS) == list(_READERS)
