"""What is kept of an evaluated model: all that is needed to score with it and to check it.

RUN/bundle/                    a model folder of MLflow
  MLmodel, served_model.py     signature, input example, and the code that MLflow runs: ours, and checked
  artifacts/bundle/
    model.safetensors config.json    weights; kind, sizes, skeleton, clock, scale, target statistics
    preprocessing.json         per table: how the poses and features were made
    bank/                      hp-mcore: the dives that new ones are compared with
    errors.parquet             errors on test clips, for intervals
    known.parquet              experts of 2-D poses, hp-mcore: what videos are compared with
    examples/                  some test clips with the scores that the evaluation recorded for them
    metrics.json card.md
  SHA256SUMS                   of every file
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.checkpoint import bundle_kind, load_bundle, write_durably
from pipelines.errors import ConfigError, CorruptError, SecurityError
from pipelines.journal import SUMS
from pipelines.redact import redact
from pipelines.scorer import families_of, flat_row, flat_schema, read_tables, write_tables
from pipelines.scoring.interval import ERRORS, write_errors
from pipelines.scoring.neighbours import KNOWN, known_clips, write_known
from pipelines.scoring.training import Training
from pipelines.store import open_store, snapshot_of
from pipelines.tracking import flavors_of, load_pyfunc, save_pyfunc

EXAMPLES = 8
TOLERANCE = 1e-4  # of a score, at least of one point: batches of other sizes round differently
DATA = Path("artifacts/bundle")
_SEAL = "registered_model_meta"  # MLflow leaves it in folders that it downloads
_LOADER = "mlflow.pyfunc.loaders.code_model"
_NEEDED = "evaluate the run again (`aqa evaluate`)"


def make_bundle(run_dir: Path, store: Path) -> Path:
    """Writes RUN/bundle of a run that was evaluated on a store; an earlier one is replaced.

    Raises:
        ConfigError: the model reads frames, or the run was not evaluated.
        DataError, CorruptError: see `snapshot_of` and `load_bundle`.
    """
    target, partial = run_dir / "bundle", run_dir / ".bundle.partial"
    shutil.rmtree(partial, ignore_errors=True)
    data = partial / DATA.name
    data.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(run_dir / "model" / name, data / name)
    _, description = load_bundle(run_dir, bundle_kind(run_dir))
    families, told = families_of(description), description["provenance"]
    keys = {family: told.get(f"{family.rpartition('/')[2]}_key", "") for family in families}
    clips, tables, found = snapshot_of(store, keys)
    kept = {"clips": clips, **tables}
    if description["kind"] == "hp_mcore":
        write_tables(data / "bank", _chosen(kept, description["train_clips"]))
    predictions = _predictions(run_dir)
    _keep_for_videos(data, run_dir, description, store)
    examples = _chosen(kept, [row["clip_id"] for row in predictions])
    write_tables(data / "examples", examples)
    _write_json(data / "examples" / "predictions.json", predictions)
    metrics = {**json.loads((run_dir / "metrics.json").read_text()), "test_sha256": _test_digest(run_dir)}
    _write_json(data / "metrics.json", metrics)
    _write_json(data / "preprocessing.json", _preprocessing(store, found, list(families)))
    write_durably(data / "card.md", _card(run_dir, description, metrics).encode())
    example = _flat(examples)[0]
    takes = flat_schema(families, example)
    example = {name: value for name, value in example.items() if value is not None}
    answer = [(name, pa.string() if isinstance(value, str) else pa.float64())
              for name, value in predictions[0].items()]  # fmt: skip
    save_pyfunc(partial / "model", data, takes, pa.schema(answer), example)
    write_durably(partial / "model" / SUMS, _sums(partial / "model").encode())
    shutil.rmtree(target, ignore_errors=True)
    (partial / "model").rename(target)
    shutil.rmtree(partial)
    return target


def _keep_for_videos(data: Path, run_dir: Path, description: dict[str, Any], store: Path) -> None:
    """What `aqa score` says of a video beside its score."""
    if description["kind"] not in ("expert", "hp_mcore") or description.get("classes"):
        return
    write_errors(run_dir, data / ERRORS)
    if description.get("num_coordinates", 2) == 2:
        write_known(data / KNOWN, known_clips(description, Training(description, store)))


def verify_bundle(bundle: Path) -> dict[str, Any]:
    """Checks every file, loads the model as MLflow does without pickles, and scores its examples again.

    Returns:
        kind, files, examples, largest_difference (points; of classes the number of other answers).

    Raises:
        CorruptError: a file is missing, added or changed, or a score differs from the recorded one.
        SecurityError: the bundle would run code that is not this program's.
    """
    files = _check_sums(bundle)
    _check_code(bundle)
    recorded = json.loads((bundle / DATA / "examples" / "predictions.json").read_text())
    rows = _flat(read_tables(bundle / DATA / "examples"))
    import pandas as pd

    answers = load_pyfunc(bundle).predict(pd.DataFrame(rows).dropna(axis=1, how="all")).to_dict("records")
    by_clip = {answer["clip_id"]: answer for answer in answers}
    differences = []
    for row in recorded:
        answer = by_clip[row["clip_id"]]
        if row.get("group") is not None:
            differences.append(float(answer["group"] != row["group"]))
            allowed = 0.0
        else:
            differences.append(abs(answer["score"] - row["score"]))
            allowed = TOLERANCE * max(1.0, abs(row["score"]))
        if not differences[-1] <= allowed:
            raise CorruptError(
                bundle,
                f"clip {row['clip_id']} gets {answer}, the evaluation recorded {row}",
                "evaluate with this version of the program, and register anew",
            )
    return {
        "kind": bundle_kind(bundle / DATA),
        "files": files,
        "examples": len(recorded),
        "largest_difference": max(differences),
    }


def _check_sums(bundle: Path) -> int:
    """Number of files, all as listed."""
    listed = bundle / SUMS
    if not listed.is_file():
        raise CorruptError(bundle, f"holds no {SUMS}: this is no bundle", _NEEDED)
    wanted = {line[66:]: line[:64] for line in listed.read_text().splitlines()}
    there = {
        path.relative_to(bundle).as_posix()
        for path in bundle.rglob("*")
        if path.is_file() and path.name not in (SUMS, _SEAL)
    }
    if odd := sorted(there ^ wanted.keys()):
        problem = "is not in the list" if odd[0] in there else "is missing"
        raise CorruptError(bundle / odd[0], f"{problem} of {SUMS}", "copy the bundle again")
    for name, digest in wanted.items():
        if hashlib.sha256((bundle / name).read_bytes()).hexdigest() != digest:
            raise CorruptError(bundle / name, f"does not match its sha256 in {SUMS}", "copy the bundle again")
    return len(wanted)


def _check_code(bundle: Path) -> None:
    """MLflow runs the Python file of a model when it loads it: it must be the one of this program."""
    ours = Path(__file__).with_name("served_model.py").read_bytes()
    python = [path for path in bundle.rglob("*") if path.suffix in (".py", ".pyc", ".pkl", ".so", ".pth")]
    if [path.name for path in python] != ["served_model.py"] or python[0].read_bytes() != ours:
        raise SecurityError(
            bundle,
            "holds code that is not this program's: " + ", ".join(sorted(path.name for path in python)),
            "register the model anew with this version of the program, or do not use it",
        )
    flavors = flavors_of(bundle)
    ways = flavors.get("python_function", {})
    code = Path(ways.get("model_code_path") or "").name, ways.get("loader_module"), ways.get("code")
    if list(flavors) != ["python_function"] or code != ("served_model.py", _LOADER, None):
        raise SecurityError(
            bundle / "MLmodel", "names other code than served_model.py", "do not use this model"
        )


def _predictions(run_dir: Path) -> list[dict[str, Any]]:
    """The first recorded scores, or groups, by name of the clip."""
    path = run_dir / "predictions.parquet"
    if not path.is_file():
        raise ConfigError(run_dir, "was not evaluated", _NEEDED)
    rows = sorted(pq.read_table(path).to_pylist(), key=lambda row: row["clip_id"])[:EXAMPLES]
    if rows[0]["predicted"] is None:
        return [{"clip_id": row["clip_id"], "group": row["predicted_group"]} for row in rows]
    return [{"clip_id": row["clip_id"], "score": row["predicted"]} for row in rows]


def _test_digest(run_dir: Path) -> str:
    """Names the clips that the run was tested on, with their scores and groups."""
    rows = pq.read_table(run_dir / "predictions.parquet").to_pylist()
    told = sorted([row["clip_id"], row["score"], row.get("group")] for row in rows)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _chosen(tables: dict[str, pa.Table], names: list[str]) -> dict[str, pa.Table]:
    """Rows of some clips that succeeded, of the athlete; without the place of their source."""
    chosen = {}
    for name, table in tables.items():
        keep = pc.is_in(table["clip_id"], pa.array(names, pa.string()))
        if "status" in table.column_names:
            keep = pc.and_(keep, pc.and_(pc.equal(table["status"], "ok"), pc.equal(table["person"], 0)))
        rows = table.filter(keep)
        if "uri" in rows.column_names:
            place = rows.schema.get_field_index("uri")
            rows = rows.set_column(place, rows.schema.field("uri"), rows["clip_id"])
        chosen[name] = rows.replace_schema_metadata(None)
    return chosen


def _flat(tables: dict[str, pa.Table]) -> list[dict[str, Any]]:
    """One row per clip, see `scorer.flat_row`."""
    cells = {
        family: {row["clip_id"]: row for row in table.to_pylist()}
        for family, table in tables.items()
        if family != "clips"
    }
    return [
        flat_row(clip, {family: rows[clip["clip_id"]] for family, rows in cells.items()})
        for clip in tables["clips"].to_pylist()
    ]


def _preprocessing(store: Path, provenance: dict[str, Any], families: list[str]) -> dict[str, Any]:
    """Specification of each table: decoder, sampling, network and sha256 of its weights, or the import."""
    opened = open_store(store)
    keys = {family: provenance[f"{family.rpartition('/')[2]}_key"] for family in families}
    found = {family: {"key": key, "spec": opened.spec(key, family)} for family, key in keys.items()}
    boxes, _, key = found.get("poses", {}).get("spec", {}).get("boxes", "").partition("/")
    if boxes == "people":
        found[boxes] = {"key": key, "spec": opened.spec(key, boxes)}
    return redact(found)


def _card(run_dir: Path, description: dict[str, Any], metrics: dict[str, Any]) -> str:
    """What a reader must know before using the model."""
    from pipelines.evaluate import metrics_lines

    told = description["provenance"]
    data = ", ".join(f"{name} {value}" for name, value in sorted(told.items()) if name != "store")
    lines = metrics_lines({**metrics, "stored": False})
    return "\n".join(
        [
            f"# {run_dir.name}: {description['kind']}",
            "",
            f"Trained on {len(description['subjects'])} subjects; {data}.",
            f"Epoch {description['best_epoch']} was chosen on subjects kept out of training.",
            "",
            f"Test clips ({metrics['n']} of {metrics['subjects']} subjects never seen in training):",
            "",
            "```",
            *lines,
            "```",
            "",
            "The examples, and the bank of HP-MCoRe, hold poses and features of the clips of the store.",
            "Scores mean what they meant to the judges of the training clips, and for clips like these only.",
            "",
        ]
    )


def _sums(folder: Path) -> str:
    """As `sha256sum` writes them, so that `sha256sum -c` checks them too."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)


def _write_json(path: Path, content: Any) -> None:
    write_durably(path, (json.dumps(content, indent=2) + "\n").encode())
