"""One trained model, ready to score videos: its networks, what it learned from, and how sure it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.checkpoint import bundle_kind, load_bundle
from pipelines.config import ExtractConfig
from pipelines.datasets.manifest import clips_table
from pipelines.errors import ConfigError
from pipelines.evaluate import load_members
from pipelines.scoring import two_stage
from pipelines.scoring.distance import Distance, Known, describe, distances, nearest_action
from pipelines.scoring.exemplar_file import guest_row, settle
from pipelines.scoring.explanation import Explanation
from pipelines.scoring.extraction import Extractor, Recording
from pipelines.scoring.interval import Interval, interval_of
from pipelines.scoring.neighbours import known_clips
from pipelines.scoring.quality import Warning, distance_warnings, pose_warnings, time_warnings
from pipelines.scoring.refusal import Refused
from pipelines.scoring.request import Request
from pipelines.scoring.settings import appearance_settings, differences, pose_settings, works_of
from pipelines.scoring.training import Training
from pipelines.scoring.verdict import Verdict

if TYPE_CHECKING:
    from aqa_models.two_stage.members import Members
    from pipelines.scoring.dive import Bank

NOBODY = 0.3
"""Mean confidence of the joints below which nobody is there, for a pose network of which no more is known."""
FAR_OFF = 3.0
"""A posture this many times farther than any training person's, of joints less sure than in any training
clip, is no athlete."""


@dataclass(frozen=True)
class Scored:
    """One scored video and all that was found on the way."""

    recording: Recording
    pose: dict[str, Any]
    verdict: Verdict
    explanation: Explanation
    interval: Interval
    warnings: list[Warning]
    distances: list[Distance]


class VideoScorer:
    """Loads a model once and scores any number of videos, one after another.

    Args:
        model: run folder, its model folder, or a bundle.
        given: settings of `aqa extract`; those that nobody set are as in the training.
        store: where the store of the training is now; None = where it was.
        weights: i3d, static or c3d_fc6 -> weights file of a visual network that has one.
        max_seconds: longest performance.
        use_gpu: run the networks on the GPU.

    Raises:
        ConfigError: no model, one that does not score, or one that cannot read videos.
    """

    def __init__(
        self,
        model: Path,
        given: ExtractConfig,
        *,
        store: Path | None = None,
        weights: dict[str, Path | None] | None = None,
        max_seconds: float = 120.0,
        use_gpu: bool = False,
    ):
        self.model = model
        self.kind = _scoring_kind(model)
        self.kept = kept = _weights_folder(model)
        self.tensors, self.description = load_bundle(kept, self.kind)
        _check_reads_video(model, self.description)
        self.training = Training(self.description, store, kept)
        self.bank: Bank | None = None
        if self.kind == "hp_mcore":
            from pipelines.scoring.dive import Bank  # it costs seconds, and experts need none of it

            self.bank = Bank(self.description, self.training, kept)
        detection, works = None, {}
        for family in self._families():
            if family == "poses":
                detection, works[family] = works_of(pose_settings(given, self.training))
            else:
                settings = appearance_settings(family, given, self.training, weights or {})
                works[family] = works_of(settings)[1]
        if "poses" not in works:  # the model does not read them; the pictures and the warnings do
            detection, works["poses"] = works_of(pose_settings(given, self.training))
        self.extractor = Extractor(detection, works, max_seconds, use_gpu)
        self.doubts = self._extraction_doubts()

    def __enter__(self) -> VideoScorer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.extractor.__exit__(*exc_info)

    def prepare(self) -> None:
        """Loads now what would else be loaded with the first video."""
        self.extractor.prepare()
        _ = self.known
        if self.bank is None:
            _ = self.members

    def check(self, request: Request) -> None:
        """Raises the ConfigError that `score` would raise for this request, whatever the video."""
        self._clip(Path("any"), request)

    def settled(self, request: Request) -> Request:
        """A request typed on this machine, its exemplar found; see `exemplar_file.settle`."""
        return settle(request, self.bank.rows.values()) if self.bank is not None else request

    def exemplar_sha256(self, request: Request) -> str:
        """Of the video that was invited as the exemplar; empty if there is none."""
        guest = self.bank.guests.get(request.exemplar) if self.bank is not None else None
        return guest.pose()["source_sha256"] if guest else ""

    def score(self, video: Path, request: Request) -> Scored:
        """Scores one video.

        Raises:
            Refused: the video cannot be read or shows nobody.
            ConfigError: the request does not say enough, see `two_stage.action_of` and `dive.Bank.complete`.
        """
        clip = self._clip(video, request)
        recording = self._read(video, clip)
        pose = recording.pose()
        blocks = describe(pose["keypoints"], pose["time_s"], pose["skeleton"])
        away = distances(blocks, self.known, clip["action_type"] or "")
        if self.bank is not None:
            from pipelines.scoring import dive

            verdict = dive.score(recording, self.tensors, self.description, self.bank, request.exemplar)
            explanation = dive.explain(recording, verdict, self.bank)
        else:
            verdict = two_stage.score(recording, self.tensors, self.description, self.members)
            explanation = two_stage.explain(recording, self.description, self.training, self.model)
        found = [
            *self.doubts,
            *self._unsure(pose),
            *pose_warnings(pose, recording.seen),
            *time_warnings(pose, self.known, verdict.action_type),
            *distance_warnings(away, verdict.action_type, nearest_action(blocks, self.known)),
            *self._unlike_training(verdict, away),
        ]
        interval = interval_of(self.kept, verdict.action_type)
        return Scored(recording, pose, verdict, explanation, interval, found, away)

    @cached_property
    def known(self) -> list[Known]:
        """Clips of the training."""
        return known_clips(self.description, self.training, self.kept)

    @cached_property
    def members(self) -> Members:
        """The networks of a two-stage expert."""
        return load_members(self.tensors, self.description)

    def _families(self) -> list[str]:
        if self.bank is not None:
            from pipelines.scoring.dive import families_of

            return families_of(self.description)
        kind = self.description["feature_kind"]
        return ["poses", f"features/{kind}"] if kind else ["poses"]

    def _clip(self, video: Path, request: Request) -> dict[str, Any]:
        """A row of CLIPS, named like the one of a clips table that says nothing else."""
        clip: dict[str, Any] = {
            "clip_id": video.stem,
            "uri": str(video.absolute()),
            "start_s": request.start_s,
            "end_s": request.end_s,
            "action_type": request.action_type or None,
            "difficulty": request.difficulty,
        }
        if request.box is not None:
            sides = ("box_x1_px", "box_y1_px", "box_x2_px", "box_y2_px")
            clip |= dict(zip(sides, request.box, strict=True))
        if self.bank is not None:
            if request.exemplar_score is not None:
                self._invite(self.bank, request, request.exemplar_score)
            return self.bank.complete(clip, request.exemplar)
        if request.exemplar != "auto":
            cause = "names a dive to compare with, and this model compares with none"
            raise ConfigError("--exemplar", cause, "leave it out, or give a run of `aqa train hp-mcore`")
        return clip | {"action_type": two_stage.action_of(self.description, request.action_type)}

    def _invite(self, bank: Bank, request: Request, score: float) -> None:
        """Makes the exemplar that is a video one of the dives that can be named."""
        from pipelines.scoring import dive

        name = request.exemplar
        if name in bank.guests and bank.rows[name]["score"] == score:
            return
        clip = self._clip(Path(name), Request(request.action_type, request.difficulty)) | {"clip_id": name}
        try:
            recording = self._read(Path(name), clip)
        except Refused as error:
            raise ConfigError("--exemplar", f"{name}: {error.cause}", error.remedy) from error
        verdict = dive.score(recording, self.tensors, self.description, bank, "auto")
        time_s = recording.pose()["time_s"]
        bank.invite(recording, guest_row(clip, verdict, score, time_s, bank.clips.schema))

    def _read(self, video: Path, clip: dict[str, Any]) -> Recording:
        """Poses and features of a video that shows somebody."""
        recording = self.extractor.extract(clips_table({name: [value] for name, value in clip.items()}))
        pose, seen = recording.pose(), recording.seen
        blocks = describe(pose["keypoints"], pose["time_s"], pose["skeleton"])
        away = distances(blocks, self.known, clip["action_type"] or "")
        mean = pose["mean_confidence"] or 0.0
        lowest = self._lowest_confidence()
        posture = next((distance for distance in away if distance.block == "view"), None)
        far = posture is not None and posture.value > FAR_OFF * posture.limit
        if mean >= NOBODY and not (far and mean < lowest):
            return recording
        cause = f"nobody is recognised in it: mean confidence of the joints {mean:.2f}"
        if posture is not None:
            cause += f" (training clips at least {lowest:.2f}), distance of the posture {posture.value:.2f}"
            cause += f" (training people at most {posture.limit:.2f})"
        remedy = (
            "film one whole athlete in good light; if there is one, say where with --box, name a detector "
        )
        remedy += "with --detector-config, or use a pose network that knows such people"
        if seen.flat:  # the network draws skeletons of little confidence into them
            cause += f"; {seen.flat / seen.frames:.0%} of the pictures are of one colour, for example black"
            remedy = "say which part shows the athlete: --start-s 5 --end-s 9; else " + remedy
        raise Refused("no_person", video, cause, remedy)

    def _lowest_confidence(self) -> float:
        """Mean confidence of the joints in the training clip where they are least sure; NOBODY if unknown."""
        known = [clip.confidence for clip in self.known if math.isfinite(clip.confidence)]
        return min(known, default=NOBODY)

    def _unsure(self, pose: dict[str, Any]) -> list[Warning]:
        mean = pose["mean_confidence"] or 0.0
        lowest = self._lowest_confidence()
        if mean >= lowest:
            return []
        text = f"the joints are less sure than in any training clip: mean confidence {mean:.2f}, there at "
        return [Warning("low_confidence", f"{text}least {lowest:.2f}", mean, lowest)]

    def _unlike_training(self, verdict: Verdict, away: list[Distance]) -> list[Warning]:
        """Doubts that concern the model: nothing to compare with, or a score outside of what it learned."""
        if not away:
            place = self.training.place
            known = self.training.available or self.known
            reason = "the training has too few clips or a single person" if known else (
                f"the store of the training ({place}) is not there"
            )  # fmt: skip
            text = f"not checked whether this is like the training clips: {reason}"
            return [Warning("not_compared", text)]
        scores = [clip.score for clip in self.known if clip.action_type == verdict.action_type]
        scores = [score for score in scores if score is not None]
        if scores and not min(scores) <= verdict.score <= max(scores):
            text = f"the score lies outside of those of the training, {min(scores):g} to {max(scores):g}"
            return [Warning("beyond_scores", text, verdict.score)]
        return []

    def _extraction_doubts(self) -> list[Warning]:
        found = []
        for family, work in self.extractor.works.items():
            if differs := differences(work, self.training):
                text = f"{family} are made otherwise than in the training: {'; '.join(differs)}"
                found.append(Warning("other_extraction", text))
        return found


def _weights_folder(model: Path) -> Path:
    """Of a bundle (RUN/bundle, a model folder of MLflow) the folder with weights and dives; else itself."""
    inside = model / "artifacts" / "bundle"
    return inside if inside.is_dir() else model


def _scoring_kind(model: Path) -> str:
    kind = bundle_kind(_weights_folder(model))
    if kind == "angles":
        cause = "reads 3-D poses, and a video gives 2-D ones"
        remedy = "import 3-D recordings (`aqa data import`) and use `aqa evaluate`, or train a model that "
        remedy += "reads videos: `aqa extract`, then `aqa train expert`"
        raise ConfigError(model, cause, remedy)
    if kind not in ("expert", "hp_mcore"):
        cause = f"is a model of kind {kind!r}, which gives no score"
        raise ConfigError(model, cause, "give a run of `aqa train expert` or `aqa train hp-mcore`")
    return kind


def _check_reads_video(model: Path, description: dict[str, Any]) -> None:
    if description.get("classes"):
        cause = f"tells groups ({', '.join(description['classes'])}), not scores"
        raise ConfigError(model, cause, "give a model of scores")
    if description.get("num_coordinates", 2) != 2:
        cause = f"learned from {description['num_coordinates']}-D poses, and a video gives 2-D ones"
        remedy = "train an expert on poses of videos: `aqa extract`, then `aqa train expert`"
        raise ConfigError(model, cause, remedy)
