"""The lines that people read, from a document of known numbers."""

from __future__ import annotations

from typing import Any

from pipelines.evaluate import metrics_lines
from pipelines.hp_mcore.report import lines


def number(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


NONE = {"value": None, "low": None, "high": None, "reason": "all predicted scores are equal"}


def document(**changes: Any) -> dict[str, Any]:
    """What metrics.json holds."""
    floor = {"spearman": NONE, "mae": number(9.25, 8.0, 10.5), "relative_l2_x100": number(1.5)}
    given = {
        "kind": "hp_mcore",
        "n": 12,
        "spearman": number(0.912, 0.801, 0.95),
        "mae": number(3.5, 2.25, 4.75),
        "relative_l2_x100": number(0.25, 0.125, 0.5),
        "baselines": {"mean of the dive number": floor},
        "human_ceiling": {"n": 11, "spearman": 0.967},
        "score_range": {"low": 40.5, "high": 99.0, "source": "lowest and highest true test score"},
        "segmentation": {"aiou_50": 1.0, "aiou_75": 0.875, "transition_error": 1.5},
        "segmentation_baselines": {"median of all dives": {"aiou_50": 0.75, "aiou_75": 0.25}},
        "exemplars": {"rule": "number", "wanted": 10, "fewer": 3, "fallback": {"rotation": 2}},
        "by_action_type": {
            "107b": {"n": 9, "mae": 3.25, "bias": -1.5, "spearman": 0.75},
            "407c": {"n": 3, "mae": 4.25, "bias": 0.5, "spearman": None},
        },
        "stored": False,
    }
    return given | changes


def told(found: list[str], start: str) -> str:
    """What the one line that begins so says after that."""
    (line,) = [line for line in found if line.startswith(start)]
    return " ".join(line.removeprefix(start).split())


def test_model_floor_and_ceiling_stand_in_one_table():
    found = lines(document())
    assert found[0] == "12 test dives"
    model = "0.912 [0.801, 0.950] 3.500 [2.250, 4.750] 0.250 [0.125, 0.500]"
    assert told(found[:3], "HP-MCoRe") == model
    floor = "none: all predicted scores are equal 9.250 [8.000, 10.500] 1.500"
    assert told(found, "mean of the dive number") == floor
    assert told(found, "one judge against the other six") == "0.97 (11 dives)"
    assert "R-l2 divides by 40.5 to 99: lowest and highest true test score" in found


def test_flight_exemplars_and_numbers_follow():
    found = lines(document())
    flight = found[next(k for k, line in enumerate(found) if line.startswith("flight found")) :]
    assert told(flight, "HP-MCoRe") == "1.000 0.875"
    assert told(flight, "median of all dives") == "0.750 0.250"
    assert "Exemplars: 10 training dives of the same dive number" in found
    assert "3 dives had fewer" in found
    fallback = (
        "2 dives had none: compared with dives of the same rotation group instead; their scores are less sure"
    )
    assert fallback in found
    assert told(found, "107b") == "9 3.25 -1.50 0.75"
    assert told(found, "407c") == "3 4.25 0.50"


def test_what_is_not_there_is_not_told():
    plain = {"rule": "number", "wanted": 10, "fewer": 0, "fallback": {}}
    nobody = {"n": 0, "spearman": None, "reason": "fewer than ten test dives with seven judges"}
    text = "\n".join(
        lines(document(exemplars=plain, human_ceiling=nobody, segmentation={}, segmentation_baselines={}))
    )
    for words in ("had fewer", "had none", "one judge", "AIoU", "stored result"):
        assert words not in text
    assert "Exemplars: 10" in text


def test_rules_are_told_in_words():
    anybody = {"rule": "rotation", "wanted": 10, "fewer": 0, "fallback": {"any": 1}}
    found = lines(document(exemplars=anybody))
    assert "Exemplars: 10 training dives of the same rotation group" in found
    assert "1 dives had none: compared with dives of any kind instead; their scores are less sure" in found
    all_of_them = {"rule": "any", "wanted": 10, "fewer": 0, "fallback": {}}
    assert "Exemplars: 10 training dives of any kind" in lines(document(exemplars=all_of_them))


def test_a_stored_result_is_told_and_the_verb_prints_this_report():
    found = metrics_lines(document(stored=True))
    assert found == lines(document(stored=True))
    assert found[-1] == "These test clips were scored before; this is the stored result."
