"""Every error a user can see, and the codes of rejected clips.

    AqaError                 exit code   when
    ├── ConfigError          2           unknown key, wrong type, contradictory options
    ├── DataError            3           annotation or clips table is wrong; too many rejects
    ├── StorageError         4           disk full, read-only, path vanished
    ├── ClusterError         5           Ray cannot be reached or lacks resources
    ├── WriterError          6           another writer holds the store
    ├── CorruptError         7           store or checkpoint does not match its record
    ├── SecurityError        8           refused because it could execute, leak or exhaust
    └── ClipError            -           one clip failed; becomes one `rejected` row, never stops a run

Each text names the thing (file, row, key), the cause, and the remedy.
"""

from __future__ import annotations

# Codes of rejected clips: what happened, and what a person can do about it.
REJECT_CODES: dict[str, str] = {
    "missing": "the file does not exist; check the uri",
    "not_regular": "the path is no file; give a video, or a folder of JPEG or PNG pictures and nothing else",
    "empty": "the file has zero bytes; copy or download it again",
    "not_media": "the content is no video container or picture; check the download",
    "playlist": "the file is a playlist naming other files; give the video itself",
    "no_video": "the file holds no decodable video stream",
    "unsupported": "the codec or encryption cannot be decoded here; convert to H.264",
    "no_index": "the container's index is missing (download cut off?); copy the file again",
    "corrupt": "packets are damaged, so frames would be wrong; copy the file again",
    "truncated": "fewer frames than the container promises; copy the file again",
    "empty_range": "no frame lies between start_s and end_s; correct the clip range",
    "too_large": "frame size is beyond the limit; scale the video down",
    "too_long": "too many frames for one clip; give start_s and end_s, or sample with fps:10",
    "decode_crash": "the decoder process died twice on this file",
    "decode_timeout": "decoding did not end within the time limit",
    "memory_limit": "decoding needed more memory than allowed",
    "unreadable": "the file cannot be read; check permissions and the disk",
    "bad_keypoints": "the keypoints file is not laid out as promised; correct it and import again",
    "no_person": "no person was found; give boxes in the clips table or another detector",
    "bad_pose": "the pose network returned values that are not finite",
    "bad_features": "the appearance network returned values that are not finite, or beyond half precision",
}


class AqaError(Exception):
    """Base of all errors shown to users.

    Args:
        where: the file, row, key or address concerned.
        cause: what is wrong, in one sentence without a full stop.
        remedy: what to do about it, in one sentence without a full stop.
    """

    exit_code = 1

    def __init__(self, where: object, cause: str, remedy: str):
        super().__init__(where, cause, remedy)
        self.where, self.cause, self.remedy = str(where), cause, remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.cause}. {self.remedy[:1].upper()}{self.remedy[1:]}."


class ConfigError(AqaError):
    """A setting is unknown, has the wrong type or contradicts another."""

    exit_code = 2


class DataError(AqaError):
    """Annotations or clips are wrong, or too many clips were rejected."""

    exit_code = 3


class StorageError(AqaError):
    """The file system refused: full, read-only, vanished."""

    exit_code = 4


class ClusterError(AqaError):
    """Ray cannot be reached, or lacks the resources asked for."""

    exit_code = 5


class WriterError(AqaError):
    """Another process is writing the same table, or training the same run."""

    exit_code = 6


class CorruptError(AqaError):
    """Bytes on disk do not match what was recorded when they were written."""

    exit_code = 7


class SecurityError(AqaError):
    """Refused: the input could execute code, read other files or exhaust the machine."""

    exit_code = 8


class ClipError(AqaError):
    """One clip cannot be processed.

    Args:
        code: a key of `REJECT_CODES`.
        where: the clip's uri.
        cause: what was found, with numbers.
    """

    def __init__(self, code: str, where: object, cause: str):
        if code not in REJECT_CODES:
            raise ValueError(f"unknown reject code {code!r}; known: {sorted(REJECT_CODES)}")
        super().__init__(where, cause, REJECT_CODES[code])
        self.code = code

    def __reduce__(self):
        return ClipError, (self.code, self.where, self.cause)
