"""Every hostile file, given to every reader of poses: one of our errors, nothing executed, bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.formats import FORMATS

ROOT = Path(__file__).parents[3]
CHILD = """
import json, resource, shutil, sys, time
from pathlib import Path
from pipelines import data
from pipelines.errors import AqaError
from pipelines.formats import FORMATS, import_poses

places = {
    "coco": "{name}", "mmpose": "{name}", "pyskl": "{name}", "trc": "{name}",
    "finediving-pose": "f/01/pred_comp_1.npz", "openpose": "o/a_000000000001_keypoints.json",
}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
found = {}
for path in sorted(Path(sys.argv[1]).glob("[0-9]*")):
    for kind in FORMATS:
        place = Path("work") / places[kind].format(name=path.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        source = Path("work") / place.parts[1]
        start = time.perf_counter()
        try:
            data.import_(kind, source, skeleton="" if kind == "finediving-pose" else "coco17", rate_hz=30.0)
            result = "accepted"
        except AqaError as error:
            result = f"{type(error).__name__}: {error}"
        found[f"{kind} {path.name}"] = [result, time.perf_counter() - start]
        shutil.rmtree("work")
# VmHWM, not ru_maxrss: the latter starts with the peak of the process that started this one.
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps([found, peak]))
"""


@pytest.mark.data
def test_no_hostile_file_gets_through(test_data: Path, tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(test_data / "malicious")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    found, peak = json.loads(child.stdout.splitlines()[-1])
    assert len(found) == len(FORMATS) * len(list((test_data / "malicious").glob("[0-9]*")))
    accepted = [name for name, (result, _) in found.items() if result == "accepted"]
    assert not accepted
    assert max(seconds for _, seconds in found.values()) < 10
    assert peak < 2**29
    assert list(tmp_path.iterdir()) == []
    for folder in (test_data, test_data / "malicious", test_data.parent):
        assert not (folder / "PWNED").exists()
    assert "SecurityError" in found["pyskl 08_hidden_in_annotation_dict_proto3.pkl"][0]
    assert "SecurityError" in found["finediving-pose 22_zip_bomb.npz"][0]
    for name, reason in (
        ("40_nan_infinity", "is no number in JSON"),
        ("41_duplicate_keys", "stands twice"),
        ("42_deep_nesting_100000", "nested too deeply"),
        ("43_huge_integer", "no JSON that can be read"),
        ("44_invalid_utf8_and_trailing_data", "no JSON that can be read"),
    ):
        for kind in ("coco", "mmpose", "openpose"):
            assert reason in found[f"{kind} {name}.json"][0]
