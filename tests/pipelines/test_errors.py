from __future__ import annotations

import pickle
import re

import pytest

from pipelines import errors


def _tree() -> dict[str, str]:
    """Class name -> exit code, as the docstring draws it."""
    return dict(re.findall(r"── (\w+)\s+(\d|-) ", errors.__doc__ or ""))


def test_docstring_draws_every_error():
    classes = {c.__name__ for c in errors.AqaError.__subclasses__()}
    assert set(_tree()) == classes


@pytest.mark.parametrize("name", sorted(set(_tree()) - {"ClipError"}))
def test_exit_codes_are_those_drawn(name):
    assert str(getattr(errors, name).exit_code) == _tree()[name]


def test_text_names_place_cause_and_remedy():
    error = errors.DataError("clips.csv row 3", "score is no number", "Correct the cell")
    assert str(error) == "clips.csv row 3: score is no number. Correct the cell."


@pytest.mark.parametrize("kind", [c for c in errors.AqaError.__subclasses__() if c is not errors.ClipError])
def test_errors_survive_a_process_boundary(kind):
    error = pickle.loads(pickle.dumps(kind("a", "b", "c")))
    assert (type(error), str(error)) == (kind, "a: b. C.")


def test_clip_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(errors.ClipError("truncated", "v.mp4", "5 of 9 frames")))
    assert (error.code, error.where, error.cause) == ("truncated", "v.mp4", "5 of 9 frames")
    assert error.remedy == errors.REJECT_CODES["truncated"]


def test_unknown_reject_code():
    with pytest.raises(ValueError, match="unknown reject code 'odd'; known: "):
        errors.ClipError("odd", "v.mp4", "x")
