"""Extraction on a real local Ray: every planned clip ends as one row, whatever dies on the way."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file, save_file

from pipelines import audit, data, kinds, plan
from pipelines import extract as extraction
from pipelines import store as stores
from pipelines.config import ExtractConfig
from pipelines.datasets.manifest import read_manifest
from pipelines.errors import ConfigError, DataError, StorageError, WriterError
from pipelines.extract import explain, extract
from pipelines.rendered.dataset import render_dataset
from pipelines.rendered.network import WEIGHTS
from pipelines.schema import PEOPLE, rejected_row
from pipelines.stages import detect
from pipelines.stages.pose import read_pose_config

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

CONFIG = ExtractConfig(clips_per_call=2, decode_workers=1, network_workers=1)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """Manifest of 10 rendered clips."""
    return render_dataset(tmp_path_factory.mktemp("rendered"), exercises=6, subjects=4, dives=4, seed=5)


@pytest.fixture(scope="module")
def undisturbed(rendered, tmp_path_factory, local_ray) -> Path:
    """A store extracted in one go."""
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    result = extract(rendered, path, CONFIG)
    assert (result["ok"], result["rejected"], result["computed"]) == (10, 0, 10)
    assert result["spilled_bytes"] == 0
    assert re.fullmatch(r"core-bound: decoding took \d+% .* would give x\d\.\d", result["bottleneck"])
    return path


def poses(store: Path) -> dict[str, dict]:
    found = stores.open_store(store)
    rows = found.poses(found.pose_keys()[0]).read().to_pylist()
    names = [row["clip_id"] for row in rows]
    assert len(names) == len(set(names)), "a clip has two rows"
    return {row["clip_id"]: row for row in rows}


def assert_same_rows(store: Path, reference: Path) -> None:
    found, expected = poses(store), poses(reference)
    assert sorted(found) == sorted(expected)
    for name, row in found.items():
        other = expected[name]
        # The batch a frame is in differs between runs, and with it the last bits.
        np.testing.assert_allclose(row.pop("keypoints"), other["keypoints"], atol=1e-2)
        np.testing.assert_allclose(row.pop("confidence"), other["confidence"], atol=1e-4)
        for name in ("mean_confidence", "jitter_px"):
            assert row.pop(name) == pytest.approx(other[name], abs=1e-2)
        assert row == {key: value for key, value in other.items() if key in row}


def start(manifest: Path, store: Path) -> subprocess.Popen:
    """The same extraction in a process of its own, as the command line starts it."""
    code = (
        "import sys; from pathlib import Path; from pipelines.config import ExtractConfig;"
        "from pipelines.extract import extract;"
        "extract(Path(sys.argv[1]), Path(sys.argv[2]), ExtractConfig(clips_per_call=2, decode_workers=1,"
        " network_workers=1), progress=lambda line: print(line, flush=True))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(manifest), str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_frames_times_and_provenance_are_recorded(undisturbed):
    for row in poses(undisturbed).values():
        assert row["skeleton"] == "mpii16"
        assert row["num_joints"] == 16
        assert len(row["keypoints"]) == row["num_frames"] * 16 * 2
        assert len(row["time_s"]) == len(row["frame_index"]) == row["num_frames"]
        np.testing.assert_allclose(np.diff(row["time_s"]), 0.04, atol=1e-3)
        assert row["decoder"] == "decord"
        assert len(row["source_sha256"]) == 64


def test_a_second_run_does_nothing(undisturbed, rendered):
    store = stores.open_store(undisturbed)
    version = store.poses(store.pose_keys()[0]).version()
    result = extract(rendered, undisturbed, CONFIG)
    assert (result["computed"], result["already_done"], result["ok"]) == (0, 10, 10)
    assert result["version"] == version
    (told,) = store.extractions("poses", store.pose_keys()[0])
    assert told["clips"] == 10
    assert told["decode_s"] > 0
    assert told["network_s"] > 0


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_says_what_it_would_take(rendered, tmp_path):
    result = extract(rendered, tmp_path / "store", CONFIG, dry_run=True)
    assert (result["would_compute"], result["already_done"], result["probed_clips"]) == (10, 0, 10)
    assert not (tmp_path / "store").exists()
    low, high = result["hours_95"]
    assert 0 < low <= result["hours"] <= high < 1
    assert 0 < result["core_hours"] < 1
    assert result["gpu_hours"] == 0
    assert 0.01 < result["disk_mb"] < 100


def test_a_dry_run_of_a_finished_store_has_nothing_to_probe(rendered, undisturbed):
    result = extract(rendered, undisturbed, CONFIG, dry_run=True)
    assert (result["would_compute"], result["already_done"]) == (0, 10)


@pytest.mark.slow
def test_long_clips_come_in_parts_and_leave_in_one_row(rendered, undisturbed, tmp_path, monkeypatch):
    """Seven frames per part: what a film of an hour does with parts of 32 MB."""
    monkeypatch.setattr(kinds, "BLOCK_BYTES", 7 * 192 * 192 * 3)
    assert kinds.find_work_of(CONFIG).decode.frames_per_part == 7
    result = extract(rendered, tmp_path / "store", CONFIG)
    assert (result["ok"], result["spilled_bytes"]) == (10, 0)
    assert_same_rows(tmp_path / "store", undisturbed)


def test_a_moved_and_renamed_collection_is_not_computed_again(rendered, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "store")
    shutil.copytree(rendered.parent, tmp_path / "moved")
    names = {}
    with (tmp_path / "moved" / rendered.name).open(newline="") as file:
        clips = list(csv.DictReader(file))
    for clip in clips:
        old = tmp_path / "moved" / clip["uri"]
        old.rename(old.with_name(f"renamed-{old.name}"))
        names[f"renamed-{clip['clip_id']}"] = clip["clip_id"]
        clip["uri"] = str(old.with_name(f"renamed-{old.name}"))
        clip["clip_id"] = f"renamed-{clip['clip_id']}"
    manifest = tmp_path / "moved.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, clips[0].keys())
        writer.writeheader()
        writer.writerows(clips)
    result = extract(manifest, tmp_path / "store", CONFIG)
    assert (result["computed"], result["moved_or_renamed"], result["ok"]) == (0, 10, 10)
    found, expected = poses(tmp_path / "store"), poses(undisturbed)
    for name, old in names.items():
        assert found[name]["keypoints"] == expected[old]["keypoints"]


def test_why_says_what_other_weights_change(rendered, undisturbed, tmp_path):
    tensors = load_file(WEIGHTS)
    first = sorted(tensors)[0]
    tensors[first] = tensors[first] + 1
    save_file(tensors, tmp_path / "other.safetensors")
    name = sorted(poses(undisturbed))[0]
    same = explain(undisturbed, name, CONFIG)
    assert "nothing to compute" in same["next"]["poses"][0]
    other = explain(undisturbed, name, CONFIG.model_copy(update={"weights": tmp_path / "other.safetensors"}))
    assert "computed" in other["next"]["poses"][0]
    assert any("weights sha256 changed from" in sentence for sentence in other["next"]["poses"])


@pytest.mark.slow
def test_a_probe_sizes_the_pools_and_its_clips_count(rendered, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "PROBE_CLIPS", 1)
    lines: list[str] = []
    config = CONFIG.model_copy(update={"auto": True, "decode_workers": 0, "network_workers": 0})
    result = extract(rendered, tmp_path / "store", config, progress=lines.append)
    assert result["ok"] == result["computed"] == 10
    assert any(line.startswith("forecast: 0.0") for line in lines)
    assert re.fullmatch(r"\d+ s forecast, \d+ s taken", result["forecast_against_actual"])
    assert_same_rows(tmp_path / "store", undisturbed)


@pytest.mark.slow
def test_a_detector_gives_the_boxes_of_the_poses(rendered, tmp_path):
    """Random weights see people everywhere; the poses of the two chosen lie in the boxes of their tracks."""
    detector = "rtmdet_nano_320-8xb32_coco-person"
    config = detect.read_detector_config(detector)
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        network = MODELS.build(config.model)
    for scores, sides in zip(network.bbox_head.rtm_cls, network.bbox_head.rtm_reg, strict=True):
        scores.bias.data.fill_(2.0)  # sure of everything
        sides.bias.data.fill_(4.0)  # in boxes of some size
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "det.safetensors")
    given = {
        "detector_config": detector,
        "detector_weights": tmp_path / "det.safetensors",
        "detector_every": 5,
        "people": 2,
        "max_reject_share": 1.0,
    }
    result = extract(rendered, tmp_path / "store", CONFIG.model_copy(update=given))
    assert result["clips"] == result["people"]["clips"] == 10
    store = stores.open_store(tmp_path / "store")
    people = store.table("people", store.keys("people")[0]).read().to_pylist()
    rows = store.poses(store.pose_keys()[0]).read().to_pylist()
    assert {(row["clip_id"], row["person"], row["error_code"]) for row in rows} == {
        (row["clip_id"], row["person"], row["error_code"]) for row in people
    }
    boxes = {(row["clip_id"], row["person"]): row for row in people if row["status"] == "ok"}
    assert any(row["person"] == 1 for row in rows)
    for row in rows:
        if row["status"] == "ok":
            tracked = boxes[row["clip_id"], row["person"]]
            where = dict(zip(tracked["frame_index"], np.reshape(tracked["box"], (-1, 4)), strict=True))
            for frame, box in zip(row["frame_index"], np.reshape(row["box"], (-1, 4)), strict=True):
                if frame in where:
                    np.testing.assert_allclose(box, where[frame], atol=1e-3)


def test_fp16_without_a_gpu_is_refused_before_any_worker_starts(rendered, tmp_path):
    with pytest.raises(
        ConfigError, match="extract.precision: fp16 needs a GPU, and there is none. Choose bf16"
    ):
        extract(rendered, tmp_path / "store", CONFIG.model_copy(update={"precision": "fp16"}))


def test_clips_in_which_nobody_was_found_need_no_second_reading(rendered, tmp_path):
    """The detection pass is done, by hand; poses take its refusals over without a worker."""
    (tmp_path / "weights.pth").write_bytes(b"only its hash counts")
    given = {
        "detector_config": "rtmdet_nano_320-8xb32_coco-person",
        "detector_weights": tmp_path / "weights.pth",
        "max_reject_share": 1.0,
    }
    config = CONFIG.model_copy(update=given)
    clips = read_manifest(rendered)
    store = stores.open_store(tmp_path / "store", create=True)
    table = store.create("people", kinds.find_people_work(config).spec)
    nobody = clips.append_column("clip_digest", plan.clip_digests(clips)).to_pylist()
    row = {
        "error_code": "no_person",
        "error_message": "the detector found nobody",
        "attempts": 1,
        "person": 0,
    }
    rows = [rejected_row(PEOPLE, {**clip, **row}) for clip in nobody]
    with table.writer() as writer:
        writer.commit([table.write_file(pa.Table.from_pylist(rows, schema=PEOPLE))])
    result = extract(rendered, tmp_path / "store", config)
    assert (result["people"]["computed"], result["ok"], result["by_code"]) == (0, 0, {"no_person": 10})
    assert extract(rendered, tmp_path / "store", config)["computed"] == 0


def test_a_wrong_manifest_makes_no_store(tmp_path):
    with pytest.raises(DataError, match="none.csv: the file does not exist"):
        extract(tmp_path / "none.csv", tmp_path / "store", CONFIG)
    assert not (tmp_path / "store").exists()


def test_imported_keypoints_are_not_decoded(waving_tables, tmp_path):
    data.put(tmp_path / "store", "keypoints", *waving_tables)
    result = extract(None, tmp_path / "store", CONFIG)
    assert (result["clips"], result["computed"]) == (0, 0)


def test_broken_files_become_rows_and_stop_nobody(rendered, tmp_path):
    good = sorted(rendered.parent.rglob("*.mp4"))[0]
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "half.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    names = ["missing.mp4", "empty.mp4", "text.mp4", "half.mp4", str(good)]
    manifest = tmp_path / "clips.csv"
    manifest.write_text("uri\n" + "\n".join(names) + "\n")
    with pytest.raises(DataError, match="4 of 5 clips were rejected .* more than the share of 0.5 allowed"):
        extract(manifest, tmp_path / "store", CONFIG)
    rows = poses(tmp_path / "store")
    assert {name: row["error_code"] for name, row in rows.items()} == {
        "missing": "missing",
        "empty": "empty",
        "text": "not_media",
        "half": "no_index",
        good.stem: None,
    }
    assert "zero bytes" in rows["empty"]["error_message"]
    # A repaired file is tried again only when asked.
    (tmp_path / "half.mp4").write_bytes(good.read_bytes())
    accept = CONFIG.model_copy(update={"max_reject_share": 1.0})
    assert extract(manifest, tmp_path / "store", accept)["computed"] == 0
    result = extract(manifest, tmp_path / "store", accept, retry_rejected=True)
    assert (result["computed"], result["ok"], result["rejected"]) == (4, 2, 3)


@pytest.mark.slow
def test_a_changed_range_is_computed_anew(rendered, tmp_path):
    video = sorted(rendered.parent.rglob("*.mp4"))[0]
    manifest = tmp_path / "clips.csv"
    counts = []
    for end in (1.0, 0.4):
        manifest.write_text(f"clip_id,uri,start_s,end_s\nclip,{video},0.2,{end}\n")
        assert extract(manifest, tmp_path / "store", CONFIG)["computed"] == 1
        counts.append(poses(tmp_path / "store")["clip"]["num_frames"])
    assert counts == [20, 5], "25 frames per second over 0.8 s and 0.2 s"


def test_a_killed_driver_loses_and_doubles_nothing(rendered, undisturbed, tmp_path):
    store = tmp_path / "store"
    driver = start(rendered, store)
    for _ in range(2):
        assert driver.stdout.readline(), "the run ended before it could be killed"
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = len(poses(store))
    assert done < 10
    result = _extract_when_free(rendered, store)
    assert result["already_done"] == done
    assert_same_rows(store, undisturbed)
    audit.verify(store)


def _extract_when_free(manifest: Path, store: Path) -> dict:
    """Run as soon as the killed driver's lock is gone (the kernel drops it with the process)."""
    for _ in range(50):
        try:
            return extract(manifest, store, CONFIG)
        except WriterError:
            time.sleep(0.2)
    raise AssertionError("the lock outlived the killed driver")


@pytest.mark.slow
def test_killed_workers_are_replaced(rendered, undisturbed, tmp_path):
    store = tmp_path / "store"
    driver = start(rendered, store)
    assert driver.stdout.readline()
    killed = [_kill(pid) for pid in _workers(driver.pid)]
    assert killed, "no worker was found to kill"
    output = driver.communicate(timeout=240)[0]
    assert driver.returncode == 0, output
    assert_same_rows(store, undisturbed)
    audit.verify(store)


def _workers(session: int) -> list[int]:
    """Processes of the session that run our actors."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                member = os.getsid(int(entry.name)) == session
            except (OSError, ProcessLookupError):
                continue
            if member and title.startswith("ray::") and "_Actor" in title:
                found.append(int(entry.name))
    return found


def _kill(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_a_clear_error_and_the_rest_follows(rendered, undisturbed, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=220k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        with pytest.raises(StorageError, match="No space left on device.*committed rows are kept"):
            extract(rendered, disk / "store", CONFIG)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        extract(rendered, disk / "store", CONFIG)
        assert_same_rows(disk / "store", undisturbed)
    finally:
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.slow
def test_a_one_stage_network_finds_people_and_poses_at_once(rendered, tmp_path):
    """Random weights see people everywhere; every frame of the two chosen has a box and a pose."""
    import torch

    name = "rtmo-t_8xb32-600e_body7-416x416"
    config = read_pose_config(name)  # makes mmpose importable
    from mmengine.registry import init_default_scope
    from mmpose.models import build_pose_estimator

    init_default_scope("mmpose")
    config.model.backbone.init_cfg = None
    network = build_pose_estimator(config.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # takes the statistics of this one pass, else the boxes overflow
        network.train()
        network.head.forward(network.extract_feat(torch.rand(2, 3, 416, 416) * 255))
    fine, coarse = network.head.head_module.out_cls
    fine.bias.data.fill_(-9.0)
    coarse.bias.data.fill_(2.0)  # sure of everything in the coarse map alone, else there are thousands
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "rtmo.safetensors")
    given = {
        "pose_config": name,
        "weights": tmp_path / "rtmo.safetensors",
        "people": 2,
        "sampling": "uniform:12",
    }
    result = extract(rendered, tmp_path / "store", CONFIG.model_copy(update=given))
    assert (result["clips"], result["rejected"]) == (10, 0)
    again = extract(rendered, tmp_path / "store", CONFIG.model_copy(update=given))
    assert (again["computed"], again["already_done"]) == (0, 10)
    store = stores.open_store(tmp_path / "store")
    rows = store.poses(store.pose_keys()[0]).read().to_pylist()
    assert {row["person"] for row in rows} == {0, 1}
    for row in rows:
        keypoints = np.reshape(row["keypoints"], (row["num_frames"], 17, 2))
        assert row["skeleton"] == "coco17"
        assert len(row["box"]) == 4 * row["num_frames"]
        confidence = np.reshape(row["confidence"], (row["num_frames"], 17))
        seen = np.isfinite(keypoints).all(axis=2)
        assert seen.any()
        assert np.isnan(keypoints[~seen]).all()
        assert (confidence[~seen] == 0).all()
