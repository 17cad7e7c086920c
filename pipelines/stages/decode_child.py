"""The decode process: reads one video at a time for `DecodeGuard` and proves each frame it returns.

Run as `python -m pipelines.stages.decode_child MEMORY_MB`. Requests and answers as in `decode.py`.

1. `media_file` opens the file once and looks at type, first bytes and sha256 before any decoder does.
2. `referee`: PyAV decodes the whole stream strictly, without colour conversion, and yields times and
   fingerprints.
3. decord reads the file in order (by index it returns wrong frames on real files). Every returned frame is
   compared with its fingerprint; if decord fails or disagrees, PyAV reads the frames instead.

Frames are upright with square pixels: the display matrix and the sample aspect ratio are applied once (ratios
within 2 % of one are encoder rounding and left alone).
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from io import FileIO
from typing import Any, BinaryIO

import av
import av.logging
import cv2
import numpy as np

from pipelines.errors import ClipError
from pipelines.stages.decode import Crop, box_to_center_scale, fix_aspect, sample_indices, warp_matrix
from pipelines.stages.media_file import open_regular, promised_bytes, sha256_of, sniff
from pipelines.stages.referee import (
    Referee,
    as_coded,
    distance,
    luma_from_rgb,
    open_strict,
    referee,
    upright,
    video_stream,
)

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
_LAST_FILE: dict[tuple[int, ...], tuple[str, Referee]] = {}
NEIGHBOUR_MARGIN = 0.5  # a frame this much nearer to its neighbour's fingerprint is the neighbour


# ---------------------------------------------------------------- reading pixels


def read_decord(fd: int, ruling: Referee, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Upright RGB frames `wanted` (ascending) from decord, in order, each checked against the referee.

    Raises:
        Disagreement: if decord fails, counts differently, or returns another picture.
    """
    if decord is None:
        raise Disagreement("decord cannot be imported here")
    try:
        reader = decord.VideoReader(f"/dev/fd/{fd}", ctx=decord.cpu(0), num_threads=1)
        if len(reader) != len(ruling.time_s):
            raise Disagreement(f"decord counts {len(reader)} frames, the stream shows {len(ruling.time_s)}")
        position = 0
        for index in wanted:
            while position <= index:
                picture = reader.next()
                position += 1
            frame = picture.asnumpy()
            check(as_coded(frame, ruling.turn), ruling, int(index))
            yield frame
    except (decord.DECORDError, RuntimeError, StopIteration, IndexError) as error:
        raise Disagreement(
            f"decord failed: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
        ) from None


class Disagreement(Exception):
    """decord's frames cannot be used; the text says why."""


def check(coded: np.ndarray, ruling: Referee, index: int) -> None:
    """Raise `Disagreement` unless an RGB frame is frame `index` of the stream."""
    if coded.shape != (ruling.coded_size[1], ruling.coded_size[0], 3):  # seen on pictures a few pixels wide
        raise Disagreement(
            f"decord's frame has shape {coded.shape}, the stream's size is {ruling.coded_size}"
        )
    samples, whole = luma_from_rgb(coded, ruling.luma)
    own = distance(samples[whole], ruling.fingerprints[index][whole])
    if own > LUMA_TOLERANCE:
        raise Disagreement(f"decord's frame {index} is another picture (luma differs by {own:.1f} of 255)")
    near = range(max(0, index - 1), min(len(ruling.fingerprints), index + 2))
    apart = {k: distance(samples, ruling.fingerprints[k]) for k in near}
    nearest = min(near, key=lambda k: apart[k])
    if apart[index] > apart[nearest] + NEIGHBOUR_MARGIN:
        raise Disagreement(f"decord's frame {index} looks like frame {nearest}")


def read_pyav(
    path: str, fd: int, ruling: Referee, wanted: np.ndarray, max_pixels: int
) -> Iterator[np.ndarray]:
    """Upright RGB frames `wanted` (ascending) from PyAV."""
    with open_strict(path, fd, ruling.format, max_pixels) as container:
        stream = video_stream(path, container)
        stream.codec_context.thread_count = 1
        remaining = iter(wanted)
        target = next(remaining, None)
        for index, frame in enumerate(container.decode(stream)):
            if target is None:
                return
            if index == target:
                # Bicubic as FFmpeg's own command line: equal to decord bit for bit on 8-bit video.
                yield upright(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"), ruling.turn)
                target = next(remaining, None)


# ---------------------------------------------------------------- one request


def answer(request: dict[str, Any], memory_mb: int) -> tuple[dict[str, Any], np.ndarray]:
    """Do one request: header and (T, h, w, 3) frames."""
    path = request["uri"]
    max_pixels = min(MAX_PIXELS, memory_mb * 1024 * 1024 // BYTES_PER_PIXEL)
    file, facts = open_regular(path)
    with file:
        digest, ruling = judge(path, file, facts, max_pixels)
        header, frames = read_clip(request, file.fileno(), ruling, max_pixels)
        after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (facts.st_size, facts.st_mtime_ns):
            raise ClipError("unreadable", path, "the file changed while it was read")
    return header | {"source_sha256": digest, "source_bytes": facts.st_size}, frames


def judge(path: str, file: FileIO, facts: os.stat_result, max_pixels: int) -> tuple[str, Referee]:
    """Digest and referee's ruling of a file; remembered for the next clip of the same file."""
    key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if key not in _LAST_FILE:
        _LAST_FILE.clear()
        form = sniff(path, os.pread(file.fileno(), 4096, 0))
        digest = sha256_of(file)
        ruling = referee(path, file.fileno(), form, max_pixels)
        promised = promised_bytes(file, form, facts.st_size)
        if promised > facts.st_size:
            raise ClipError("truncated", path, f"{facts.st_size} of {promised} bytes are there")
        _LAST_FILE[key] = digest, ruling
    return _LAST_FILE[key]


def read_clip(
    request: dict[str, Any], fd: int, ruling: Referee, max_pixels: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Sample, read, crop."""
    path, crop = request["uri"], Crop(**request["crop"]) if request["crop"] else None
    indices = sample_indices(ruling.time_s, request["sampling"], request["start_s"], request["end_s"])
    if len(indices) == 0:
        cause = f"the file has frames from {ruling.time_s[0]:.3f} to {ruling.time_s[-1]:.3f} s"
        raise ClipError("empty_range", path, cause)
    width, height = display_size(ruling)
    if width * height > max_pixels:
        raise ClipError("too_large", path, f"{width} x {height} pixels after the pixel aspect is applied")
    shape = (len(indices), crop.height, crop.width, 3) if crop else (len(indices), height, width, 3)
    if int(np.prod(shape, dtype=object)) > request["max_bytes"]:
        cause = f"{shape[0]} frames of {shape[2]} x {shape[1]} exceed {request['max_bytes']} bytes"
        raise ClipError("too_long", path, cause)
    box = tuple(request["box"] or (0.0, 0.0, float(width), float(height)))
    frames = np.empty(shape, np.uint8)
    decoder, note = fill(frames, indices, request, fd, ruling, (width, height), box, max_pixels)
    header = {
        "shape": list(shape),
        "frame_index": indices.tolist(),
        "time_s": ruling.time_s[indices].tolist(),
        "width_px": width,
        "height_px": height,
        "box": box,
        "decoder": decoder,
        "decoder_note": note,
    }
    return header, frames


def display_size(ruling: Referee) -> tuple[int, int]:
    """Width and height of the upright frame with square pixels."""
    width, height = ruling.coded_size
    width = max(1, round(width * ruling.aspect))
    return (width, height) if ruling.turn[0, 0] else (height, width)


def fill(
    frames: np.ndarray,
    indices: np.ndarray,
    request: dict[str, Any],
    fd: int,
    ruling: Referee,
    size: tuple[int, int],
    box: tuple[float, ...],
    max_pixels: int,
) -> tuple[str, str]:
    """Read the frames into `frames`, one full frame in memory at a time; which decoder, and why."""
    wanted, first = np.unique(indices, return_index=True)  # indices ascend: repeats are neighbours
    ends = [*first[1:].tolist(), len(indices)]
    matrix = crop_matrix(request["crop"], box)

    def store(pictures: Iterator[np.ndarray]) -> int:
        count = 0
        for picture in pictures:
            frames[first[count] : ends[count]] = fit(picture, size, matrix, frames.shape[2:0:-1])
            count += 1
        return count

    note = request["note"]
    if request["reader"] == "decord":
        try:
            store(read_decord(fd, ruling, wanted))
            return "decord", ""
        except Disagreement as reason:
            note = str(reason)
    count = store(read_pyav(request["uri"], fd, ruling, wanted, max_pixels))
    if count != len(wanted):
        raise ClipError("corrupt", request["uri"], f"the second reading gave {count} of {len(wanted)} frames")
    return "pyav", note


def crop_matrix(crop: dict[str, Any] | None, box: tuple[float, ...]) -> np.ndarray | None:
    """Affine matrix of the crop, None for whole frames."""
    if crop is None:
        return None
    center, scale = box_to_center_scale(box, crop["padding"])  # type: ignore[arg-type]
    scale = fix_aspect(scale, crop["width"], crop["height"])
    return warp_matrix(center, scale, (crop["width"], crop["height"]))


def fit(
    picture: np.ndarray, size: tuple[int, int], matrix: np.ndarray | None, out_size: tuple[int, ...]
) -> np.ndarray:
    """Upright picture -> square pixels -> crop, if one is asked for."""
    if picture.shape[1::-1] != size:
        picture = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_LINEAR)
    if matrix is None:
        return picture
    return cv2.warpAffine(np.ascontiguousarray(picture), matrix, tuple(out_size), flags=cv2.INTER_LINEAR)


# ---------------------------------------------------------------- the process


def harden(memory_mb: int) -> bool:
    """Limit this process; returns whether it has no network any more. Call before threads exist."""
    limit = memory_mb * 1024 * 1024
    if sys.platform == "linux":  # elsewhere the address space is shared with the system
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(what, (0, 0))
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    new_user, new_network = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
    # Root keeps its right to read every file only in its own user namespace.
    flags = new_network if os.geteuid() == 0 else new_user | new_network
    return libc.unshare(flags) == 0


def read_requests(requests: queue.SimpleQueue[bytes]) -> None:
    """Thread: hand over request lines; the parent's death (end of stdin) ends this process at once."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


def respond(out: BinaryIO, header: dict[str, Any], frames: np.ndarray | None = None) -> None:
    """Write one answer."""
    out.write(json.dumps(header).encode() + b"\n")
    if frames is not None and frames.size:
        out.write(frames.data.cast("B"))
    out.flush()


def serve_one(line: bytes, memory_mb: int) -> tuple[dict[str, Any], np.ndarray | None]:
    """Answer one request line; a failing clip becomes a code and a cause."""
    request = json.loads(line)
    # A decoder that hangs after the parent's death is ended by the kernel. SIGALRM keeps its default action.
    signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + 5.0)
    try:
        return answer(request, memory_mb)
    except ClipError as error:
        return {"code": error.code, "cause": error.cause}, None
    except MemoryError:
        return {"code": "memory_limit", "cause": f"no more memory under the limit of {memory_mb} MiB"}, None
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        return {"code": "memory_limit", "cause": f"OpenCV got no memory of {memory_mb} MiB"}, None
    except OSError as error:
        return {"code": "unreadable", "cause": error.strerror or str(error)}, None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def main() -> None:
    """Serve requests until stdin ends."""
    memory_mb = int(sys.argv[1])
    isolated = harden(memory_mb)
    # Answers leave through a private descriptor; whatever a library prints goes to stderr.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.ERROR)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(requests,), daemon=True).start()
    respond(out, {"network_isolated": isolated})
    while True:
        header, frames = serve_one(requests.get(), memory_mb)
        respond(out, header, frames)


if __name__ == "__main__":
    main()
