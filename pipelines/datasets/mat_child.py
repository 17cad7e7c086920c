"""The child process of `mat_arrays`: reads one array out of each of many MATLAB 7.3 files.

Runs alone (`python -I mat_child.py NAME`), so it imports nothing of this package. MATLAB 7.3 files are HDF5,
whose reader is native code: here it may crash, and only this process ends. On standard input one path per
line; on standard output for each a line of JSON, {"shape": [...]} and float64 bytes behind it, or
{"error": ...}.
"""

from __future__ import annotations

import json
import math
import resource
import sys

ADDRESS_SPACE, MAX_NUMBERS = 2**31, 2**24


class Refused(Exception):
    """What is wrong with a file."""


def read(path: str, name: str):
    """The array `name` of a file as float64; raises Refused."""
    import h5py
    import numpy as np

    try:
        with h5py.File(path, "r", locking=False) as file:
            link = file.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
                raise Refused(f"it holds no array {name!r} of its own")
            array = file[name]
            if array.external or array.is_virtual:
                raise Refused(f"the array {name!r} lies in other files")
            if array.dtype.kind not in "fiu" or math.prod(array.shape) > MAX_NUMBERS:
                raise Refused(f"{array.dtype} {array.shape} is no array of numbers, or too large")
            return np.ascontiguousarray(array[()], dtype="<f8")
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise Refused(f"it is no readable MATLAB 7.3 file ({str(error)[:120]})") from None


def main(name: str) -> None:
    """Answer path by path until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        try:
            array = read(json.loads(line), name)
            sys.stdout.buffer.write(json.dumps({"shape": array.shape}).encode() + b"\n" + array.tobytes())
        except Refused as reason:
            sys.stdout.buffer.write(json.dumps({"error": str(reason)}).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
