"""Why a video gets no score."""

from __future__ import annotations

from pipelines.errors import DataError


class Refused(DataError):
    """A video that can be read, but not scored.

    Args:
        code: too_long, black, no_person, or a code of `errors.REJECT_CODES`.
        where: the video.
        cause: what was found, with numbers.
        remedy: what to do about it.
    """

    def __init__(self, code: str, where: object, cause: str, remedy: str):
        super().__init__(where, cause, remedy)
        self.code = code

    def as_document(self) -> dict[str, str]:
        """What the result says of this video."""
        return {"video": self.where, "code": self.code, "cause": self.cause, "remedy": self.remedy}
