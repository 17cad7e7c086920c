"""Arrow schema of every table: column, type, unit and meaning.

Only plain Arrow types: pyarrow, pandas, polars, DuckDB and Ray Data all read them. Tensors are
flat `list<float32>` columns, row-major, with their shape in explicit columns.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 2


def _column(name: str, kind: pa.DataType, meaning: str, *, required: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=not required, metadata={"meaning": meaning})


_STRING, _DOUBLE, _FLOATS = pa.string(), pa.float64(), pa.list_(pa.float32())

# The contract for a user's own data: only `uri` is required of a manifest.
CLIPS = pa.schema(
    [
        _column("clip_id", _STRING, "unique name of the clip; default: from uri and range", required=True),
        _column("uri", _STRING, "video, folder of pictures, or source of the keypoints", required=True),
        _column("start_s", _DOUBLE, "first second of the scored span, from the start of the file; empty = 0"),
        _column("end_s", _DOUBLE, "end of the scored span in seconds, exclusive; empty = end of the file"),
        _column("dataset", _STRING, "name of the data set the clip belongs to"),
        _column("action_type", _STRING, "what was performed: dive number (407c) or exercise (Es5)"),
        _column("score", _DOUBLE, "judged score, in the data set's own points; empty = unlabelled"),
        _column("difficulty", _DOUBLE, "degree of difficulty"),
        _column("judge_scores", pa.list_(_DOUBLE), "scores of the single judges"),
        _column("subject_id", _STRING, "the person performing; subjects never cross splits"),
        _column("group", _STRING, "group of the subject, e.g. control, Parkinson"),
        _column("transitions_s", pa.list_(_DOUBLE), "times between procedures, seconds from start of file"),
        _column(
            "procedures", pa.list_(_STRING), "names of the ordered sub-actions, one more than transitions"
        ),
        _column("splash", _DOUBLE, "size of the splash, share of the picture x seconds; empty = not known"),
        _column("split", _STRING, "train, val or test"),
        _column("box_x1_px", _DOUBLE, "left edge of the athlete's box, upright px; empty = whole frame"),
        _column("box_y1_px", _DOUBLE, "top edge"),
        _column("box_x2_px", _DOUBLE, "right edge"),
        _column("box_y2_px", _DOUBLE, "bottom edge"),
    ]
)

# Where the pixels of a row came from, in every table that extraction fills.
_SOURCE = [
    _column(
        "source_sha256",
        _STRING,
        "sha256 of the source file's bytes; of a folder, of its pictures' names and bytes",
    ),
    _column("source_bytes", pa.int64(), "size of the source; one of another size is read anew"),
    _column("source_mtime_ns", pa.int64(), "its modification time; if it differs, the sha256 decides"),
    _column("decoder", _STRING, "decord, pyav, opencv (pictures), or the import adapter"),
    _column(
        "decoder_note", _STRING, "empty = all frames proven; not refereed = packets checked; else why PyAV"
    ),
    _column("width_px", pa.int32(), "width of the upright frame; empty for 3-D keypoints"),
    _column("height_px", pa.int32(), "height of the upright frame"),
]

# What a row of poses, people or features begins with.
_RESULT = [
    _column("status", _STRING, "ok or rejected", required=True),
    _column("error_code", _STRING, "key of pipelines.errors.REJECT_CODES; empty if ok"),
    _column("error_message", _STRING, "what was found, for people; empty if ok"),
    _column("attempts", pa.int32(), "how often the clip was tried", required=True),
    _column("clip_digest", _STRING, "hash of range and boxes: a changed clip is computed anew"),
    _column("uri", _STRING, "where the clip was read from"),
]

# Which of the people in the picture a row is about, and how surely.
_PERSON = [
    _column("track_id", pa.int32(), "number of the person's track in the clip; empty without a detector"),
    _column(
        "id_switches",
        pa.int32(),
        "times the person may have been exchanged for another after hiding, and cuts",
    ),
    _column(
        "missing_share", _DOUBLE, "share of the frames shown to the detector without a box of the person"
    ),
    _column("mean_confidence", _DOUBLE, "mean over frames and joints (poses) or boxes (people), 0 to 1"),
]

# One row per planned clip and person; a clip that failed has one row with status = rejected.
POSES = pa.schema(
    [
        _column("clip_id", _STRING, "the clip", required=True),
        _column(
            "person", pa.int32(), "0 for the chosen athlete, then 1, 2, ... by the choice rule", required=True
        ),
        *_RESULT,
        *_SOURCE,
        *_PERSON,
        _column(
            "jitter_px", _DOUBLE, "median length of the joints' second differences, px per frame squared"
        ),
        _column("skeleton", _STRING, "name in aqa_models.skeletons, e.g. mpii16, kinect25"),
        _column("unit", _STRING, "px (upright frame, origin top left) or m (camera frame, y up)"),
        _column("num_frames", pa.int32(), "T"),
        _column("num_joints", pa.int32(), "J"),
        _column("num_coordinates", pa.int32(), "C: 2 or 3"),
        _column("frame_index", pa.list_(pa.int32()), "(T,) index of each frame in the file, display order"),
        _column("time_s", pa.list_(_DOUBLE), "(T,) seconds from the start of the file, from its time stamps"),
        _column("keypoints", _FLOATS, "(T, J, C) in `unit`; NaN = joint not available"),
        _column("confidence", _FLOATS, "(T, J) in [0, 1]"),
        _column("box", _FLOATS, "(T, 4) x1 y1 x2 y2 in px; empty for imported keypoints"),
    ]
)

# One row per clip and tracked person, written by the detection pass; poses take their boxes from here.
PEOPLE = pa.schema(
    [
        _column("clip_id", _STRING, "the clip", required=True),
        _column("person", pa.int32(), "rank by the choice rule, 0 = the athlete", required=True),
        *_RESULT,
        *_SOURCE,
        *_PERSON,
        _column("num_frames", pa.int32(), "T, frames in which the person has a box"),
        _column("frame_index", pa.list_(pa.int32()), "(T,) index of each frame in the file, display order"),
        _column("time_s", pa.list_(_DOUBLE), "(T,) seconds from the start of the file"),
        _column("box", _FLOATS, "(T, 4) x1 y1 x2 y2, px of the upright frame"),
        _column(
            "box_score", _FLOATS, "(T,) the detector's score, 0 to 1; NaN = filled in between detections"
        ),
    ]
)

# One row per clip of an appearance network.
FEATURES = pa.schema(
    [
        _column("clip_id", _STRING, "the clip", required=True),
        _column("person", pa.int32(), "0", required=True),
        *_RESULT,
        *_SOURCE,
        _column("num_frames", pa.int32(), "T, frames shown to the network"),
        _column("frame_index", pa.list_(pa.int32()), "(T,) index of each frame in the file, display order"),
        _column("time_s", pa.list_(_DOUBLE), "(T,) seconds from the start of the file"),
        _column("num_segments", pa.int32(), "S: windows of i3d and c3d_fc6, frames of static"),
        _column("num_channels", pa.int32(), "D: 1024 of i3d, 4096 of c3d_fc6, 368 of static RegNetY-200MF"),
        _column("segment_start", pa.list_(pa.int32()), "(S,) first frame of each segment, position in (T,)"),
        _column("features", _FLOATS, "(S, D), rounded to half precision"),
        _column("jpeg", pa.list_(pa.binary()), "(T,) JPEG pictures of 200 x 112 px, only of kind frames"),
    ]
)

# One row per clip of an evaluation.
PREDICTIONS = pa.schema(
    [
        _column("clip_id", _STRING, "the clip", required=True),
        _column("subject_id", _STRING, "the person"),
        _column("action_type", _STRING, "what was performed"),
        _column("split", _STRING, "train, val or test", required=True),
        _column("score", _DOUBLE, "judged score"),
        _column("predicted", _DOUBLE, "the model's score, same points"),
        _column("median_floor", _DOUBLE, "median of the training scores of this action type"),
        _column("group", _STRING, "class of the clip, from the clips table, if the model predicts classes"),
        _column("predicted_group", _STRING, "the model's class"),
        _column("low", _DOUBLE, "lower end of the interval that the votes of the exemplars span"),
        _column("high", _DOUBLE, "upper end"),
        _column("exemplar_ids", pa.list_(_STRING), "clips that it was compared with"),
        _column("votes", pa.list_(_DOUBLE), "score that each comparison gives"),
        _column("exemplar_rule", _STRING, "what exemplars and clip share: number, difficulty, rotation, any"),
        _column("contributions", pa.list_(_DOUBLE), "points of each procedure against the exemplars"),
        _column(
            "transition_frames",
            pa.list_(pa.int32()),
            "predicted first frame of each later procedure",
        ),
    ]
)


def parts_of(schema: pa.Schema) -> pa.Schema:
    """Rows on their way to a table: a long clip is several rows, numbered by `part`; `last` ends it."""
    return schema.append(pa.field("part", pa.int32())).append(pa.field("last", pa.bool_()))


POSE_PARTS, PEOPLE_PARTS, FEATURE_PARTS = parts_of(POSES), parts_of(PEOPLE), parts_of(FEATURES)

TABLES = {"clips": CLIPS, "poses": POSES, "people": PEOPLE, "features": FEATURES, "predictions": PREDICTIONS}


# What a stage hands on of a clip it did not look into.
CARRIED = ("attempts", "clip_digest", "uri", *(field.name for field in _SOURCE))


def rejected_row(schema: pa.Schema, clip: dict[str, object]) -> dict[str, object]:
    """The row of a clip that a stage gives up, or receives as given up: code, message and provenance."""
    names = ("clip_id", "person", "part", "last", "error_code", "error_message", *CARRIED)
    known = {name: clip[name] for name in names if name in schema.names and name in clip}
    return empty_row(schema, **known, status="rejected")


def empty_row(schema: pa.Schema, **values: object) -> dict[str, object]:
    """A row of `schema` with the given values and null everywhere else."""
    unknown = sorted(set(values) - set(schema.names))
    if unknown:
        raise ValueError(f"not columns of this table: {unknown}")
    return {name: values.get(name) for name in schema.names}
