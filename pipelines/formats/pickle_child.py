"""The child process of `safe_pickle`: reads one pickle on standard input, writes plain values.

Runs alone (`python -I pickle_child.py`), so it imports nothing of this package. Three gates: the opcodes are
counted and checked before anything is built; building can reach no function but the few below; the result
is walked, and only plain values leave. Exit code 3: no or a damaged pickle, 4: refused for what it asks for;
the reason is on standard error.

Output: 8 bytes length of the JSON part, the JSON part, the bytes of all arrays. In the JSON part a value is
null, true, a number or text, or a list that begins with its type: l(ist) t(uple) d(ict) b(ytes) a(rray).
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import re
import resource
import sys
from typing import Any

ADDRESS_SPACE, CPU_SECONDS = 2**30, 10
MAX_DEPTH, MAX_TEXT = 32, 2**26
_OPCODES = """PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT LONG LONG1 BININT BININT1 BININT2 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES
    BINBYTES8 BYTEARRAY8 EMPTY_LIST APPEND APPENDS LIST EMPTY_DICT DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE
    TUPLE1 TUPLE2 TUPLE3 PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL
    REDUCE BUILD"""
OPCODES = frozenset(_OPCODES.split())
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_DTYPE = re.compile(r"[<>=|]?([iu][1248]|f[248]|c(8|16)|b1|\?)")


class Refused(Exception):
    """The pickle asks for something that is not allowed."""


class Damaged(Exception):
    """The bytes are no whole pickle."""


def check_opcodes(data: bytes) -> int:
    """Number of opcodes; raises unless all are allowed and their numbers are in bounds."""
    count, end = 0, -1
    try:
        for opcode, argument, position in pickletools.genops(data):
            count += 1
            name = opcode.name
            if name not in OPCODES:
                raise Refused(f"opcode {name} at byte {position} is not allowed")
            if name == "GLOBAL":
                allowed(*str(argument).partition(" ")[::2])
            elif "PUT" in name and int(argument or 0) > count:
                raise Refused(f"memo index {argument} at byte {position} after {count} opcodes")
            end = position or 0
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise Damaged(f"{error}"[:150]) from None
    if len(data) > end + 1:
        raise Refused(f"{len(data) - end - 1} bytes follow the end mark")
    return count


class Keyless:
    """No key of a dictionary."""

    __slots__ = ()

    def __hash__(self):
        raise Refused("an array or a type is the key of a dictionary")


class Call(Keyless):
    """A function that a pickle may call; takes no attributes and no state."""

    __slots__ = ("function",)

    def __init__(self, function):
        object.__setattr__(self, "function", function)

    def __call__(self, *arguments):
        return self.function(*arguments)

    def __setattr__(self, name, value):
        raise Refused("a function is given attributes")

    def __setstate__(self, state):
        raise Refused("a function is given a state")


def _no_call(*arguments):
    raise Refused("numpy.ndarray is called")


class Dtype(Keyless):
    """A numeric type of fixed size; byte order arrives as state."""

    __slots__ = ("text",)

    def __init__(self, text, *flags):
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise Refused(f"arrays of type {str(text)[:40]!r}, only numbers are read")
        self.text = text.lstrip("<>=|")

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) < 8 or state[1] not in ("<", ">", "=", "|"):
            raise Refused("a type with an unknown state")
        if any(item is not None for item in state[2:5]):
            raise Refused("arrays with fields, only numbers are read")
        self.text = ("" if state[1] in "|=" else state[1]) + self.text.lstrip("<>")


class Array(Keyless):
    """Numbers with a shape; filled by its state, as NumPy pickles them."""

    __slots__ = ("numbers",)

    def __init__(self):
        self.numbers = None

    def fill(self, shape, kind, fortran, data) -> Array:
        import numpy as np

        if isinstance(data, str):
            data = data.encode("latin1")  # arrays pickled by Python 2
        plain = isinstance(shape, tuple) and len(shape) <= 8 and all(type(n) is int and n >= 0 for n in shape)
        if not (plain and isinstance(kind, Dtype) and isinstance(data, (bytes, bytearray))):
            raise Refused("an array with an unknown state")
        dtype = np.dtype(kind.text)
        if math.prod(shape) * dtype.itemsize != len(data):
            raise Refused(f"an array of shape {str(shape)[:60]} holds {len(data)} bytes")
        self.numbers = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        return self

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array with an unknown state")
        self.fill(*state[1:])


def _reconstruct(base, shape, code):
    if base is not NDARRAY or shape != (0,) or code not in (b"b", "b"):
        raise Refused("an array is made in an unusual way")
    return Array()


def _frombuffer(data, kind, shape, order):
    return Array().fill(shape, kind, order == "F", data)


def _scalar(kind, data):
    return Array().fill((), kind, False, data).numbers.item()  # type: ignore[union-attr]


def _latin1(text, encoding):
    if encoding != "latin1" or not isinstance(text, str):
        raise Refused(f"codec {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _empty_bytes(*arguments):
    if arguments:
        raise Refused("bytes are made in an unusual way")
    return b""


NDARRAY = Call(_no_call)
GLOBALS = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): Call(Dtype),
    ("_codecs", "encode"): Call(_latin1),
}
for _module in _MULTIARRAY:
    GLOBALS |= {(_module, "_reconstruct"): Call(_reconstruct), (_module, "scalar"): Call(_scalar)}
for _module in ("__builtin__", "builtins"):  # how protocols 0 to 2 write b""
    GLOBALS[_module, "bytes"] = Call(_empty_bytes)
for _module in _NUMERIC:
    GLOBALS[_module, "_frombuffer"] = Call(_frombuffer)


def allowed(module: str, name: str) -> Call:
    """What a global of a pickle means here; only exact pairs."""
    if (module, name) not in GLOBALS:
        raise Refused(f"it asks for {module[:60]}.{name[:60]}")
    return GLOBALS[module, name]


class PlainUnpickler(pickle.Unpickler):
    """Builds plain values and arrays; every other global is refused."""

    def find_class(self, module, name):
        return allowed(module, name)

    def persistent_load(self, pid):
        raise Refused("it names an object outside of the file")


class Encoder:
    """Plain values -> the JSON part and the arrays, each value once per place where it stands.

    Args:
        max_values, max_bytes: bounds on what shared values may expand to.
    """

    def __init__(self, max_values: int, max_bytes: int):
        self.left, self.bytes_left = max_values, max_bytes
        self.buffers: list[bytes] = []
        self.offset = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0 or self.bytes_left < 0:
            raise Refused("shared values expand beyond bounds")
        if value is None or type(value) in (bool, int, float):
            return value
        if type(value) is str:
            self.bytes_left -= len(value)
            return value
        if isinstance(value, (bytes, bytearray)):
            return ["b", *self._place(bytes(value))]
        if isinstance(value, Array) and value.numbers is not None:
            import numpy as np

            numbers = np.ascontiguousarray(value.numbers)
            return ["a", *self._place(numbers.tobytes()), numbers.dtype.str, list(value.numbers.shape)]
        if depth >= MAX_DEPTH:
            raise Refused(f"values are nested deeper than {MAX_DEPTH}")
        if type(value) in (list, tuple):
            items: Any = value
            return [type(value).__name__[0], *(self.encode(item, depth + 1) for item in items)]
        if type(value) is dict:
            pairs = (self.encode(item, depth + 1) for pair in value.items() for item in pair)
            return ["d", *pairs]
        raise Refused("it holds values other than lists, dictionaries, text and numbers")

    def _place(self, data: bytes) -> tuple[int, int]:
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise Refused("shared values expand beyond bounds")
        self.buffers.append(data)
        self.offset += len(data)
        return self.offset - len(data), len(data)


def _deny(event: str, arguments: tuple) -> None:
    """Nothing is opened, started, imported or connected while the pickle is built."""
    if event.split(".")[0] not in ("pickle", "object", "sys"):
        raise Refused(f"an attempt of {event}")


def load(data: bytes) -> tuple[bytes, list[bytes]]:
    """The JSON part and the arrays of a pickle."""
    opcodes = check_opcodes(data)
    if b"numpy" in data:
        import numpy as np

        np.frombuffer(b"\0" * 8, "<f8").reshape(1, order="F")  # whatever NumPy loads late, it loads now
    sys.addaudithook(_deny)
    try:
        value = PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
        encoder = Encoder(16 * opcodes + 1000, 4 * len(data) + MAX_TEXT)
        return json.dumps(encoder.encode(value)).encode(), encoder.buffers
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise Damaged(f"{error}"[:150]) from None
    except (TypeError, AttributeError, UnicodeError) as error:
        raise Refused(f"it builds something unusual ({error})"[:200]) from None


def main() -> None:
    """Read, check, write; limits on memory and processor time hold from the first byte."""
    data = sys.stdin.buffer.read()
    space = ADDRESS_SPACE + 8 * len(data)
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    seconds = CPU_SECONDS + len(data) // 2**20
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        text, buffers = load(data)
    except Refused as reason:
        stop(4, str(reason))
    except MemoryError:
        stop(4, "it expands beyond the memory allowed")
    except Damaged as reason:
        stop(3, str(reason))
    else:
        sys.stdout.buffer.write(len(text).to_bytes(8, "little"))
        sys.stdout.buffer.write(text)
        for part in buffers:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


def stop(code: int, reason: str) -> None:
    """Say why and end the process."""
    sys.stderr.write("".join(char if char.isprintable() else "?" for char in reason))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
