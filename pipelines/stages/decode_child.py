"""The decode process: reads one video at a time for `DecodeGuard` and proves the frames it returns.

Run as `python -m pipelines.stages.decode_child MEMORY_MB LOG_FD`. Requests and answers as in `decode.py`.

1. `media_file` opens the file once and looks at type, first bytes and sha256 before any decoder does.
2. `referee.survey` looks at every packet: counts, times, edit lists, marks of damage.
3. decord reads the file in order (by index it returns wrong frames on real files). Whatever it or FFmpeg
   inside it complains about on stderr counts as a fault, since damaged pictures come back without an error.
4. If the request asks for proof, if packets cannot tell what is shown, or after any fault of decord,
   `referee.referee` decodes the whole stream strictly. Then every frame of decord is compared with its
   fingerprint; if decord fails or disagrees, PyAV reads the frames instead.
5. decord decodes ahead of a slow reader without bound. A clip whose frames could fill `DECORD_SHARE` of the
   memory is read by PyAV, strictly and one frame at a time; each frame's own time stamp is its proof.

A folder of pictures (`picture_folder.py`) is read as a video of 25 frames per second, by OpenCV.

Frames are upright with square pixels: the display matrix and the sample aspect ratio are applied once (ratios
within 2 % of one are encoder rounding and left alone).
"""

from __future__ import annotations

import json
import os
import queue
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from typing import Any, BinaryIO

import av
import av.logging
import cv2
import numpy as np

from pipelines.errors import ClipError
from pipelines.stages.decode import PART_BYTES, read_log
from pipelines.stages.media_file import open_regular, promised_bytes, sha256_of, sniff
from pipelines.stages.picture_folder import PictureFolder, look_into
from pipelines.stages.picture_reader import folder_ruling, read_pictures
from pipelines.stages.pictures import Fit, crop_matrix, fit_size, scaled
from pipelines.stages.process_limits import harden, memory_limit
from pipelines.stages.referee import (
    Referee,
    as_coded,
    distance,
    log_of,
    luma_from_rgb,
    open_strict,
    referee,
    strict_stream,
    survey,
    upright,
)
from pipelines.stages.sampling import PersonBoxes, sample_indices
from pipelines.stages.sound_reader import read_sound

# decord's import loads every CUDA library that torch brought along (3.4 GB of addresses, 0.6 GB of memory);
# reading on the CPU needs none of them, so the package they are found through is hidden from it.
sys.modules["nvidia"] = None  # type: ignore[assignment]
try:
    import decord
except (ImportError, OSError):  # there is no wheel for this platform
    decord = None

MAX_PIXELS = 8192 * 8192
BYTES_PER_PIXEL = 24  # reference pictures plus RGB copies while decoding, budgeted generously
LUMA_TOLERANCE = 6.0  # mean absolute difference of 255 between a frame and its own fingerprint
NEIGHBOUR_MARGIN = 0.5  # a frame this much nearer to its neighbour's fingerprint is the neighbour
BEAT_S = 0.5
DECORD_SHARE = 0.4  # of the memory limit, for the frames that decord decodes ahead of their reader
# Of the last file: demuxer, sha256, and the ruling with (True) or without proof.
_LAST_FILE: dict[tuple[int, ...], tuple[str, str, dict[bool, Referee]]] = {}
Beat = Callable[[], None]
Luma = tuple[np.ndarray, np.ndarray]


# ---------------------------------------------------------------- reading pixels


def read_decord(
    fd: int, log: int, ruling: Referee, wanted: np.ndarray, on_trust: list[Luma] | None, beat: Beat
) -> Iterator[np.ndarray]:
    """Upright RGB frames `wanted` (ascending) from decord, in order.

    Each is compared with its fingerprint; where there are none, its own goes to `on_trust`, if given.

    Raises:
        Disagreement: if decord fails, complains, counts differently, or returns another picture.
    """
    if decord is None:
        raise Disagreement("decord cannot be imported here")
    read_log(log)  # what earlier files left
    try:
        reader = decord.VideoReader(f"/dev/fd/{fd}", ctx=decord.cpu(0), num_threads=1)
        if len(reader) != len(ruling.time_s):
            raise Disagreement(f"decord counts {len(reader)} frames, the stream shows {len(ruling.time_s)}")
        position = 0
        for index in wanted:
            while position <= index:
                picture = reader.next()
                position += 1
                beat()
            frame = picture.asnumpy()
            complaint = read_log(log)
            if complaint and ruling.fingerprints is None:  # else the comparison decides
                raise Disagreement(f"decord complains: {plain(complaint.decode('utf-8', 'replace'))}")
            coded = as_coded(frame, ruling.turn)
            if coded.shape != (ruling.coded_size[1], ruling.coded_size[0], 3):  # seen on tiny pictures
                size = ruling.coded_size
                raise Disagreement(f"decord's frame has shape {coded.shape}, the stream's size is {size}")
            if ruling.fingerprints is not None:
                compare(*luma_from_rgb(coded, ruling.luma), ruling, int(index))
            elif on_trust is not None:
                samples, whole = luma_from_rgb(coded, ruling.luma)
                on_trust.append((samples.astype(np.float16), whole))
            yield frame
    except (decord.DECORDError, RuntimeError, StopIteration, IndexError) as error:
        raise Disagreement(f"decord failed: {plain(str(error)) or type(error).__name__}") from None


def plain(text: str) -> str:
    """First line of a message without what differs between two runs: times, addresses, places in code."""
    line = next(iter(text.strip().splitlines()), "")
    line = re.sub(r"^(\[[\d:]+\] |\S+\.(cc|h):\d+: |\[(/dev/fd/\d+|\w+ @ 0x\w+)\] )+", "", line)
    return "".join(c for c in line if c.isprintable())[:200]


class Disagreement(Exception):
    """decord's frames cannot be used; the text says why."""


def compare(samples: np.ndarray, whole: np.ndarray, ruling: Referee, index: int) -> None:
    """Raise `Disagreement` unless the luma is that of frame `index` of the stream."""
    assert ruling.fingerprints is not None
    samples = samples.astype(np.float32)
    own = distance(samples[whole], ruling.fingerprints[index][whole])
    if own > LUMA_TOLERANCE:
        raise Disagreement(f"decord's frame {index} is another picture (luma differs by {own:.1f} of 255)")
    near = range(max(0, index - 1), min(len(ruling.fingerprints), index + 2))
    apart = {k: distance(samples, ruling.fingerprints[k]) for k in near}
    nearest = min(near, key=lambda k: apart[k])
    if apart[index] > apart[nearest] + NEIGHBOUR_MARGIN:
        raise Disagreement(f"decord's frame {index} looks like frame {nearest}")


def read_pyav(
    path: str, fd: int, ruling: Referee, wanted: np.ndarray, max_pixels: int, beat: Beat
) -> Iterator[np.ndarray]:
    """Upright RGB frames `wanted` (ascending) from PyAV, decoded strictly; each must have its own time."""
    with open_strict(path, fd, ruling.format, max_pixels) as container:
        stream = strict_stream(path, container, max_pixels)
        start = (container.start_time or 0) / 1e6
        remaining = iter(wanted)
        target = next(remaining, None)
        frames = enumerate(container.decode(stream))
        while target is not None:
            beat()
            try:
                index, frame = next(frames)
            except StopIteration:
                raise ClipError("corrupt", path, f"the frames end before frame {target}") from None
            except (av.error.FFmpegError, ValueError) as error:
                raise ClipError("corrupt", path, f"before frame {target}: {log_of(error)}") from None
            if ruling.fingerprints is None:
                on_time = frame.time is not None and abs(frame.time - start - ruling.time_s[index]) < 1e-6
                if frame.is_corrupt or not on_time:
                    raise ClipError("corrupt", path, f"frame {index} is damaged or comes at another time")
            if index == target:
                # Bicubic as FFmpeg's own command line: equal to decord bit for bit on 8-bit video.
                yield upright(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"), ruling.turn)
                target = next(remaining, None)


# ---------------------------------------------------------------- one request


@dataclass
class Plan:
    """What to take from a file and how to cut it."""

    indices: np.ndarray  # (T,)
    time_s: np.ndarray  # (T,)
    people: list[int]  # (P)
    boxes: np.ndarray  # (P, T, 4)
    size: tuple[int, int]  # width and height of the upright frame
    picture: dict[str, Any] | None  # a Crop, Resize, Fit or Letterbox, with its kind
    per_part: int  # frames

    def out_size(self) -> tuple[int, int]:
        """Width and height of the pictures handed out."""
        return (self.picture["width"], self.picture["height"]) if self.picture else self.size


Answer = Iterator[tuple[dict[str, Any], np.ndarray]]


def answer(request: dict[str, Any], memory_mb: int, log: int, beat: Beat) -> Answer:
    """Do one request: headers and (P, T, h, w, 3) frames, part after part."""
    path = request["uri"]
    max_pixels = min(MAX_PIXELS, memory_mb * 1024 * 1024 // BYTES_PER_PIXEL)
    if os.path.isdir(path):
        yield from read_folder(request, look_into(path), max_pixels, log, beat)
        return
    file, facts = open_regular(path)
    with file:
        for header, frames in read_clip(request, file, facts, max_pixels, log, beat):
            after = os.fstat(file.fileno())
            if (after.st_size, after.st_mtime_ns) != (facts.st_size, facts.st_mtime_ns):
                raise ClipError("unreadable", path, "the file changed while it was read")
            source = {"source_bytes": facts.st_size, "source_mtime_ns": facts.st_mtime_ns}
            yield header | source, frames


def read_clip(
    request: dict[str, Any], file: FileIO, facts: os.stat_result, max_pixels: int, log: int, beat: Beat
) -> Answer:
    """decord's parts as long as it can be trusted, then PyAV's."""
    path, fd = request["uri"], file.fileno()
    done, note, file_frames = request["done"], request["note"], request["file_frames"]
    on_trust: list[Luma] = []
    digest, ruling = judge(path, file, facts, max_pixels, request["referee"] or done > 0, beat)
    plan = plan_clip(request, ruling, max_pixels)
    if request["reader"] == "decord" and decord_bytes(ruling, plan) > DECORD_SHARE * memory_limit():
        note = f"decord may keep all {plan.indices[-1] + 1} frames of {ruling.coded_size} in memory"
    elif request["reader"] == "decord":
        file_frames = len(ruling.time_s)
        remark = "" if ruling.fingerprints is not None else "not refereed"
        try:
            keep = on_trust if len(plan.indices) > plan.per_part else None  # one part: sent when all is read
            pictures = read_decord(fd, log, ruling, np.unique(plan.indices), keep, beat)
            for header, frames in fill(plan, pictures, 0):
                yield header | provenance(plan, ruling, digest, "decord", remark), frames
                done += frames.shape[1]
            return
        except Disagreement as reason:
            note = str(reason)
        digest, ruling = judge(path, file, facts, max_pixels, True, beat)
        plan = plan_clip(request, ruling, max_pixels)
    if done:
        verify(path, ruling, plan.indices[:done], file_frames, on_trust)
    pictures = read_pyav(path, fd, ruling, np.unique(plan.indices[done:]), max_pixels, beat)
    for header, frames in fill(plan, pictures, done):
        yield header | provenance(plan, ruling, digest, "pyav", note), frames


def read_folder(
    request: dict[str, Any], folder: PictureFolder, max_pixels: int, log: int, beat: Beat
) -> Answer:
    """The same from a folder of pictures: all are hashed and must be whole, the wanted are decoded."""
    digest, ruling = folder.digest(beat), folder_ruling(folder, max_pixels, log)
    plan, done = plan_clip(request, ruling, max_pixels), request["done"]
    wanted = np.unique(plan.indices[done:])
    pictures = read_pictures(folder, wanted, ruling.coded_size, max_pixels, log, beat)
    for header, frames in fill(plan, pictures, done):
        if look_into(folder.path) != folder:
            raise ClipError("unreadable", folder.path, "the folder changed while it was read")
        source = {"source_bytes": folder.size, "source_mtime_ns": folder.mtime_ns}
        yield header | provenance(plan, ruling, digest, "opencv", "") | source, frames


def decord_bytes(ruling: Referee, plan: Plan) -> int:
    """Most that decord may hold: nothing stops it from decoding far ahead of a slow reader (measured)."""
    return int(plan.indices[-1] + 1) * ruling.coded_size[0] * ruling.coded_size[1] * 3


def verify(
    path: str, ruling: Referee, handed_out: np.ndarray, file_frames: int, on_trust: list[Luma]
) -> None:
    """Raise unless the frames that decord gave before it failed are what the referee saw."""
    if file_frames != len(ruling.time_s):
        cause = f"packets promised {file_frames} frames, {len(ruling.time_s)} came out"
        raise ClipError("corrupt", path, cause)
    try:
        for index, luma in zip(np.unique(handed_out), on_trust, strict=False):
            compare(*luma, ruling, int(index))
    except Disagreement as reason:
        raise ClipError("corrupt", path, str(reason)) from None


def judge(
    path: str, file: FileIO, facts: os.stat_result, max_pixels: int, prove: bool, beat: Beat
) -> tuple[str, Referee]:
    """Digest and ruling of a file; remembered for the next clip of the same file."""
    key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if key not in _LAST_FILE:
        _LAST_FILE.clear()
        form = sniff(path, os.pread(file.fileno(), 4096, 0))
        _LAST_FILE[key] = form, sha256_of(file, beat), {}
    form, digest, rulings = _LAST_FILE[key]
    if prove not in rulings:
        ruling = None if prove else survey(path, file.fileno(), form, max_pixels, beat)
        ruling = ruling or referee(path, file.fileno(), form, max_pixels, beat)
        promised = promised_bytes(file, form, facts.st_size)
        if promised > facts.st_size:
            raise ClipError("truncated", path, f"{facts.st_size} of {promised} bytes are there")
        rulings[prove] = ruling
    return digest, rulings[prove]


def plan_clip(request: dict[str, Any], ruling: Referee, max_pixels: int) -> Plan:
    """Choose frames, sizes and boxes."""
    path, picture = request["uri"], request["picture"]
    indices = sample_indices(ruling.time_s, request["sampling"], request["start_s"], request["end_s"])
    if len(indices) == 0:
        cause = f"the file has frames from {ruling.time_s[0]:.3f} to {ruling.time_s[-1]:.3f} s"
        raise ClipError("empty_range", path, cause)
    width, height = size = display_size(ruling)
    if width * height > max_pixels:
        raise ClipError("too_large", path, f"{width} x {height} pixels after the pixel aspect is applied")
    whole = {"person": 0, "frame_index": [0], "boxes": [[0.0, 0.0, float(width), float(height)]]}
    people = [PersonBoxes(**person) for person in request["people"] or [whole]]
    if picture and picture["kind"] == "Fit":
        fit = Fit(picture["width"], picture["height"], picture["keep_aspect"])
        picture = picture | dict(zip(("width", "height"), fit_size(width, height, fit), strict=True))
    out_width, out_height = (picture["width"], picture["height"]) if picture else size
    per_part = PART_BYTES // (len(people) * out_width * out_height * 3)
    return Plan(
        indices=indices,
        time_s=ruling.time_s[indices],
        people=[person.person for person in people],
        boxes=np.stack([person.at(indices) for person in people]),
        size=size,
        picture=picture,
        per_part=max(1, min(request["frames_per_part"], per_part)),
    )


def display_size(ruling: Referee) -> tuple[int, int]:
    """Width and height of the upright frame with square pixels."""
    width, height = ruling.coded_size
    width = max(1, round(width * ruling.aspect))
    return (width, height) if ruling.turn[0, 0] else (height, width)


def provenance(plan: Plan, ruling: Referee, digest: str, decoder: str, note: str) -> dict[str, Any]:
    """What the answer says beside frames: sizes, and who read them."""
    return {
        "file_frames": len(ruling.time_s),
        "width_px": plan.size[0],
        "height_px": plan.size[1],
        "decoder": decoder,
        "decoder_note": note,
        "source_sha256": digest,
    }


def fill(plan: Plan, pictures: Iterator[np.ndarray], done: int) -> Answer:
    """Cut pictures and gather them to parts, one whole picture in memory at a time.

    Args:
        plan: what to take.
        pictures: upright frames, one for each different index in `plan.indices[done:]`.
        done: frames of the plan that have been handed out already.
    """
    shown, frames = -1, None
    width, height = plan.out_size()
    for start in range(done, len(plan.indices), plan.per_part):
        indices = plan.indices[start : start + plan.per_part]
        shape = (len(plan.people), len(indices), height, width, 3)
        if frames is None or frames.shape != shape:  # else its memory is used again: it has been sent
            frames = None
            frames = np.empty(shape, np.uint8)
        for position, index in enumerate(indices):
            if index != shown:  # indices ascend: repeats are neighbours
                picture, shown = next(pictures), index
            for person, boxes in enumerate(plan.boxes):
                cut(picture, plan, boxes[start + position], frames[person, position])
        stop = start + len(indices)
        yield (
            {
                "shape": shape,
                "people": plan.people,
                "frame_index": indices.tolist(),
                "time_s": plan.time_s[start:stop].tolist(),
                "box": plan.boxes[:, start:stop].tolist(),
                "last": stop == len(plan.indices),
            },
            frames,
        )


def cut(picture: np.ndarray, plan: Plan, box: np.ndarray, target: np.ndarray) -> None:
    """Upright picture -> square pixels -> crop or scaled picture, if one is asked for, into `target`."""
    spec = plan.picture
    picture = np.ascontiguousarray(picture)
    if spec is None or spec["kind"] == "Resize":
        target[:] = scaled(picture, plan.out_size())
        return
    size = plan.out_size()
    if spec["kind"] == "Fit":
        cv2.resize(picture, size, dst=target, interpolation=cv2.INTER_LINEAR)
        return
    # In a letterbox the box is the whole frame.
    matrix = crop_matrix(tuple(box.tolist()), spec.get("padding", 1.0), size)
    grey = (spec.get("border", 0),) * 3
    cv2.warpAffine(
        scaled(picture, plan.size), matrix, size, dst=target, flags=cv2.INTER_LINEAR, borderValue=grey
    )


# ---------------------------------------------------------------- the process


def read_requests(requests: queue.SimpleQueue[bytes]) -> None:
    """Thread: hand over request lines; the parent's death (end of stdin) ends this process at once."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


class Answers:
    """The way back to the guard: parts, errors, and signs of life while there is progress.

    Between two of them the kernel ends this process after `timeout_s` and a little, so that a decoder that
    hangs does not outlive its parent; SIGALRM keeps its default action. Writing may wait for ever, since the
    parent takes the next part when it has room for it.
    """

    def __init__(self, out: BinaryIO):
        self.out, self.timeout_s, self.next_beat = out, 0.0, 0.0

    def send(self, header: dict[str, Any], frames: np.ndarray | None = None) -> None:
        """Write one line and its pixels."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        self.out.write(json.dumps(header).encode() + b"\n")
        if frames is not None:
            self.out.write(frames.data.cast("B"))
        self.out.flush()
        self.next_beat = time.monotonic() + BEAT_S
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s and self.timeout_s + 5.0)

    def beat(self) -> None:
        """Something was achieved: say so, but not more often than the guard needs."""
        if time.monotonic() >= self.next_beat:
            self.send({"beat": True})


def serve_one(request: dict[str, Any], memory_mb: int, log: int, answers: Answers) -> None:
    """Answer one request; a failing clip becomes a code and a cause."""
    answers.timeout_s = request["timeout_s"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    budget = int(used.ru_utime + used.ru_stime + request["cpu_s"]) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or budget < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (budget, hard))  # ends in SIGXCPU
    try:
        answers.beat()
        if "sound" in request:
            with open_regular(request["uri"])[0] as file:
                for header, samples in read_sound(request, file, answers.beat):
                    answers.send(header, samples)
            return
        for header, frames in answer(request, memory_mb, log, answers.beat):
            answers.send(header, frames)
        return
    except ClipError as error:
        code, cause = error.code, error.cause
    except MemoryError:
        code, cause = "memory_limit", f"no more memory under the limit of {memory_mb} MiB"
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        code, cause = "memory_limit", f"OpenCV got no memory of {memory_mb} MiB"
    except OSError as error:
        code, cause = "unreadable", error.strerror or str(error)
    answers.send({"code": code, "cause": cause})


def main() -> None:
    """Serve requests until stdin ends."""
    memory_mb, log = int(sys.argv[1]), int(sys.argv[2])
    isolated = harden(memory_mb)
    # Answers leave through a private descriptor; whatever a library prints goes to stderr.
    answers = Answers(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.ERROR)
    if decord is not None:
        decord.logging.set_level(decord.logging.ERROR)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(requests,), daemon=True).start()
    answers.send({"network_isolated": isolated})
    while True:
        serve_one(json.loads(requests.get()), memory_mb, log, answers)
        answers.timeout_s = 0.0
        signal.setitimer(signal.ITIMER_REAL, 0.0)


if __name__ == "__main__":
    main()
