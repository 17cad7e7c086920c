"""Every hostile file, given to every reader: one of our errors, nothing executed, bounded time and memory.

All files run in one child process whose address space may grow by 1 GiB over what the imports need.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = Path(os.environ.get("AQA_TEST_DATA", ".")) / "malicious"
FILES = sorted(path.name for path in HOSTILE.glob("[0-9]*")) if "AQA_TEST_DATA" in os.environ else []
PICKLES = [name for name in FILES if name.endswith((".pkl", ".pth", ".npy"))]

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set"),
]

CHILD = '''
import json, resource, shutil, sys, time
from pathlib import Path
import numpy, openpyxl, defusedxml.ElementTree, pyarrow.parquet
from pipelines import data
from pipelines.datasets import clinical_sheet, keypoints_npz, kimore, manifest, npz_arrays, subject_splits
from pipelines.errors import AqaError

def official(target):
    """A reader that puts the file into KIMORE's folders as one of its three kinds of file."""
    def read(path):
        shutil.rmtree("official", ignore_errors=True)
        exercise = Path("official/CG/Expert/E_ID1/Es1")
        for name in ("Raw", "Label"):
            (exercise / name).mkdir(parents=True)
        (exercise / "Raw" / "JointPosition1.csv").write_text("0,0,1,2," * 25)
        shutil.copyfile(path, exercise / target)
        data.import_("kimore", Path("official"))
    return read

def arrays(**files):
    given = {"positions": Path("good.npz"), "samples": Path("good.csv"), **files}
    keypoints_npz.read_keypoints(keypoints_npz.ArraySource(
        skeleton="kinect25", unit="m", rate_hz=30.0, **given))

def every_array(path):
    with npz_arrays.NpzArrays(path) as opened:
        for name in opened.names:
            opened.read(name)

READERS = {
    "manifest": manifest.read_manifest,
    "validate": data.validate,
    "splits": lambda path: subject_splits.read_splits(path, 0),
    "sheet": clinical_sheet.read_clinical_sheet,
    "joints": kimore.read_joint_positions,
    "as_joints": official("Raw/JointPosition1.csv"),
    "as_stamps": official("Raw/TimeStamp1.csv"),
    "as_sheet": official("Label/ClinicalAssessment_E_ID1.xlsx"),
    "npz": every_array,
    "positions": lambda path: arrays(positions=path),
    "samples": lambda path: arrays(samples=path),
    "tracking": lambda path: arrays(tracking=path),
    "import": lambda path: data.import_("keypoints", path, samples=Path("good.csv"), skeleton="kinect25",
                                        unit="m", rate_hz=30.0),
}
numpy.savez("good.npz", B_ID1_Es1=numpy.ones((10, 25, 3), numpy.float32))
Path("good.csv").write_text("clip_id\\nB_ID1_Es1\\n")
arrays()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
found = {}
for path in sorted(Path(sys.argv[1]).glob("[0-9]*")):
    for name, read in READERS.items():
        start = time.perf_counter()
        try:
            read(path)
            kind, text = "read", ""
        except AqaError as error:
            kind, text = type(error).__name__, str(error)
        found[f"{path.name}/{name}"] = [kind, text, time.perf_counter() - start]
# VmHWM, not ru_maxrss: the latter starts with the peak of the process that started this one.
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps({"found": found, "peak_kib": peak}))
'''


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("deep") / "a" / "b"
    folder.mkdir(parents=True)
    before = {path: path.stat().st_mtime_ns for path in HOSTILE.iterdir()}
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(HOSTILE)], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=200, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    marks = [*folder.parents[2].rglob("PWNED*"), *HOSTILE.glob("PWNED*"), *HOSTILE.parents[1].glob("PWNED*")]
    return {**json.loads(child.stdout), "marks": marks, "stderr": child.stderr, "changed": before != {
        path: path.stat().st_mtime_ns for path in HOSTILE.iterdir()
    }}  # fmt: skip


def test_nothing_was_executed_or_written(outcome: dict):
    assert outcome["marks"] == []
    assert not outcome["changed"]


def test_memory_stays_bounded(outcome: dict):
    assert outcome["peak_kib"] < 2**20


def test_every_file_was_tried(outcome: dict):
    assert len(FILES) == 37
    assert len(outcome["found"]) == 37 * 13


@pytest.mark.parametrize("name", FILES)
def test_each_reader_answers_in_time_with_the_name_of_the_file(outcome: dict, name: str):
    readers = {
        key.split("/")[1]: value for key, value in outcome["found"].items() if key.split("/")[0] == name
    }
    for reader, (kind, text, seconds) in readers.items():
        assert seconds < 2, (reader, seconds)
        if kind == "read":
            # A recording whose time stamps or score sheet are unusable is imported with a warning.
            assert (name, reader) in HARMLESS or reader in ("as_stamps", "as_sheet"), reader
        elif not reader.startswith("as_"):
            assert name in text or "expected one" in text or "good." in text, (reader, text)
        assert "research data" not in text.lower()  # the file that 61_external_entity.xlsx points to


HARMLESS = {
    ("26_nan_inf_positions.npz", "npz"),  # NaN and infinity are numbers; the adapter masks and counts them
    ("26_nan_inf_positions.npz", "positions"),
    ("26_nan_inf_positions.npz", "import"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_refused_by_every_reader(outcome: dict, name: str):
    for key, (kind, text, _) in outcome["found"].items():
        if key.startswith(f"{name}/") and "/as_" not in key:
            assert kind == "SecurityError", key
            assert "pickle files are not read" in text


@pytest.mark.parametrize(
    ("key", "kind", "text"),
    [
        (
            "20_object_dtype.npz/npz",
            "SecurityError",
            "array 'positions' holds Python objects, that is a pickle",
        ),
        ("22_zip_bomb.npz/npz", "SecurityError", "expands from 1,924,560 to 1,980,000,128 bytes"),
        (
            "23_path_traversal.npz/npz",
            "SecurityError",
            "the name '../../PWNED.npy' points outside of the file",
        ),
        (
            "24_header_claims_1e12_values.npz/npz",
            "DataError",
            "claims 4,000,000,000,000 bytes, the file holds 16",
        ),
        ("25_duplicate_member_names.npz/npz", "DataError", "two arrays are named 'B_ID1_Es1.npy'"),
        ("40_nan_infinity.json/manifest", "DataError", "a manifest is CSV or Parquet, not .json"),
        ("42_deep_nesting_100000.json/manifest", "DataError", "a manifest is CSV or Parquet, not .json"),
        ("50_bom_crlf_newline_nul_decimal_comma.csv/samples", "DataError", "line 4 holds a NUL byte"),
        ("50_bom_crlf_newline_nul_decimal_comma.csv/manifest", "DataError", "line 4 holds a NUL byte"),
        ("51_spreadsheet_formulas.csv/manifest", "DataError", "unknown column 'subject'"),
        ("52_giant_field_and_ragged_rows.csv/samples", "DataError", "the column 'clip_id' is absent"),
        (
            "53_joint_position_merged_row.csv/joints",
            "ClipError",
            "line 6 holds 96 numbers; a frame has 25 joints",
        ),
        ("60_billion_laughs.xlsx/sheet", "SecurityError", "declares a document type or entities"),
        ("61_external_entity.xlsx/sheet", "SecurityError", "declares a document type or entities"),
        ("61_external_entity.xlsx/as_sheet", "SecurityError", "declares a document type or entities"),
        ("53_joint_position_merged_row.csv/as_joints", "DataError", "none of the 1 recordings can be read"),
        ("60_billion_laughs.xlsx/as_sheet", "SecurityError", "declares a document type or entities"),
    ],
)
def test_the_cause_is_named(outcome: dict, key: str, kind: str, text: str):
    assert outcome["found"][key][0] == kind
    assert text in outcome["found"][key][1]
