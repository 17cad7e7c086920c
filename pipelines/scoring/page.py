"""The page of one scored video: one HTML file with everything in it, which opens offline and prints."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.checkpoint import write_durably
from pipelines.errors import StorageError
from pipelines.scoring.curves import bars_png, curves_png, own_curves, timeline_png
from pipelines.scoring.drawing import legend

if TYPE_CHECKING:
    from pipelines.scoring.video_scorer import Scored

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ told.score | points }} points: {{ name }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1f; background: #fff; margin: 0 auto;
  max-width: 52rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.score { font-size: 2.6rem; font-weight: 700; } .note { color: #55555c; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
th, td { overflow-wrap: break-word; } code { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
img { max-width: 100%; height: auto; display: block; } figure { margin: 0; }
.stills { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: .8rem; }
.doubts { border-left: 4px solid #d55e00; padding: .2rem 1rem; background: #fff6ef; }
.limits { border: 1px solid #999; padding: .5rem 1rem; }
code, pre { font: .85rem/1.4 ui-monospace, monospace; white-space: pre-wrap; }
@media print { body { max-width: none; font-size: 11pt; } h2 { break-after: avoid; }
  figure, tr, .doubts, .limits { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ name }}{% if told.action_type %} <span class="note">as {{ told.action_type }}</span>{% endif %}</h1>
<p><span class="score">{{ told.score | points }}</span> {{ told.unit }}<br>
{% if told.interval.low is not none %}{{ told.interval.low | points }} to {{ told.interval.high | points }}
holds the judged score of about {{ '%.0f' | format(100 * told.interval.level) }} % of such clips
<span class="note">({{ told.interval.source }})</span>
{% else %}<span class="note">No interval: {{ told.interval.source }}.</span>{% endif %}</p>
<p class="limits"><strong>Limits.</strong> {{ told.limits }} It knows only what its training clips showed,
sees the picture and nothing else, and can be wrong without a sign. Do not decide about a person by it
alone.</p>
{% if told.warnings %}
<section class="doubts"><h2>Doubts</h2><ul>
{% for one in told.warnings %}<li>{{ one.text }}</li>{% endfor %}
</ul></section>
{% else %}<p>Nothing unusual was measured.</p>
{% endif %}
<h2>Where the points come from</h2>
<figure><img src="{{ bars }}" alt="Bars from the base, {{ told.base.points | points }} points, over the parts
to the score, {{ told.score | points }} points. The table below has the numbers."></figure>
<div class="wide"><table>
<tr><th>part</th><th class="number">from (s)</th><th class="number">to (s)</th>
<th class="number">points</th></tr>
<tr><td>base: {{ told.base.meaning }}</td><td></td><td></td>
<td class="number">{{ '%.2f' | format(told.base.points) }}</td></tr>
{% for part in told.parts %}<tr><td>{{ part.name }}</td>
<td class="number">{{ '%.2f' | format(part.start_s) }}</td>
<td class="number">{{ '%.2f' | format(part.end_s) }}</td>
<td class="number">{{ '%+.2f' | format(part.delta) }}</td></tr>
{% endfor %}<tr><th>score</th><td></td><td></td><th class="number">{{ '%.2f' | format(told.score) }}</th></tr>
</table></div>
<p class="note">The numbers say how the model's score comes about. They go along with what is seen in a part;
they do not prove what caused it.</p>
<figure><img src="{{ timeline }}" alt="{{ timeline_alt }}"></figure>
{% if told.explanation.sentences or told.explanation.missing %}
<h2>What was done otherwise</h2>
{% if told.explanation.sentences %}<ul>
{% for sentence in told.explanation.sentences %}<li>{{ sentence }}</li>{% endfor %}
</ul>{% endif %}
{% for reason in told.explanation.missing %}<p class="note">Not said: {{ reason }}.</p>{% endfor %}
<p class="note">{{ told.explanation.meaning }}</p>
{% endif %}
{% if told.explanation.differences %}<div class="wide"><table>
<tr><th>part</th><th>joint</th><th class="number">when (s)</th>
<th class="number">difference (deg)</th><th class="number">usual (deg)</th></tr>
{% for one in told.explanation.differences[:8] %}<tr><td>{{ one.part }}</td><td>{{ one.joint }}</td>
<td class="number">{{ '%.2f' | format(one.start_s) }} to {{ '%.2f' | format(one.end_s) }}</td>
<td class="number">{{ '%+.0f' | format(one.degrees) }}</td>
<td class="number">{{ '%.0f' | format(one.usual_degrees) }}</td></tr>
{% endfor %}</table></div>
<p class="note">The eight strongest, against how far the references differ among themselves; negative = bent
more, or an arm closer to the trunk.</p>{% endif %}
{% if told.explanation.ranges %}
<h2>Range of the joints</h2>
<div class="wide"><table>
<tr><th>joint</th><th class="number">this one (deg)</th><th class="number">control group, median (deg)</th>
<th class="number">percentile</th></tr>
{% for joint, one in told.explanation.ranges.items() %}<tr><td>{{ joint }}</td>
<td class="number">{{ '%.0f' | format(one.degrees) }}</td>
<td class="number">{{ '%.0f' | format(one.control_median) }}</td>
<td class="number">{{ '%.0f' | format(one.percentile) }}</td></tr>
{% endfor %}</table></div>
<p class="note">Degrees that a joint goes through in one repetition (median of the repetitions). Percentile 0:
less than all of the control group; 100: more than all.</p>{% endif %}
{% if told.explanation.inpainting %}
<h2>Limbs filled in by the network that learned healthy motion</h2>
<div class="wide"><table>
<tr><th>limb</th><th class="number">error (trunk lengths)</th><th class="number">control group, median</th>
<th class="number">percentile</th></tr>
{% for limb, one in told.explanation.inpainting.items() %}<tr><td>{{ limb }}</td>
<td class="number">{{ '%.3f' | format(one.error) }}</td>
<td class="number">{{ '%.3f' | format(one.control_median) }}</td>
<td class="number">{{ '%.0f' | format(one.percentile) }}</td></tr>
{% endfor %}</table></div>
<p class="note">The limb is hidden and drawn again from the rest of the body. The network learned from people
of the control group, so that their errors are on the small side.</p>{% endif %}
{% if pairs %}
<h2>Beside the exemplar</h2>
<div class="pairs">
{% for one in pairs %}<figure><img src="{{ one.picture }}" alt="{{ one.alt }}">
<figcaption class="note">{{ '%.2f' | format(one.time_s) }} s</figcaption></figure>
{% endfor %}</div>
<p class="note">Left this dive, right the exemplar, as far in the same procedure.</p>
{% endif %}
{% if stills %}
<h2>What was seen</h2>
<div class="stills">
{% for still in stills %}<figure><img src="{{ still.picture }}" alt="{{ still.alt }}">
<figcaption class="note">{{ '%.2f' | format(still.time_s) }} s</figcaption></figure>
{% endfor %}</div>
{% endif %}
<p class="note">Orange: the athlete's left side, blue: right, white: middle, grey: not surely seen.</p>
{% if curves %}
<h2>Joint angles</h2>
<figure><img src="{{ curves }}" alt="Curves over time of the angles at knees, hips, elbows and shoulders. {{
ranges }}"></figure>
{% if reference %}<p class="note">Grey: {{ reference }}, and the range of four of five references. Yellow:
where a joint differs most.</p>{% endif %}
<p class="note">In the plane of the picture, 180 degrees = straight; a joint bent towards the camera looks
straighter than it is. Curves that leap from frame to frame show where joints were not followed, for example
under water. {{ ranges }}</p>
{% endif %}
{% if told.exemplars %}
<h2>Compared with</h2>
<div class="wide"><table>
<tr><th>clip</th><th class="number">judged</th><th class="number">says of this one</th></tr>
{% for one in told.exemplars %}<tr><td>{{ one.clip_id }}</td><td class="number">{{ one.score | points }}</td>
<td class="number">{{ one.vote | points }}</td></tr>
{% endfor %}</table></div>
<p class="note">Dives of the training of {{ kind }}; the score is the mean of what they say.</p>
{% endif %}
<h2>How far from the training</h2>
{% if told.distances %}<div class="wide"><table>
<tr><th></th><th class="number">distance</th><th class="number">training people, at most</th>
<th>nearest</th></tr>
{% for block, one in told.distances.items() %}<tr><td>{{ block }}</td>
<td class="number">{{ '%.3f' | format(one.value) }}</td>
<td class="number">{{ '%.3f' | format(one.limit) }}</td>
<td>{{ one.nearest }}</td></tr>
{% endfor %}</table></div>{% else %}<p>Not measured.</p>{% endif %}
<h2>How it was made</h2>
<p>Command, to repeat it:</p><pre>{{ command }}</pre>
<div class="wide"><table>
<tr><td>model</td><td>{{ told.provenance.model }} ({{ told.provenance.model_kind }})</td></tr>
<tr><td>sha256 of its weights</td><td><code>{{ told.provenance.model_sha256 }}</code></td></tr>
<tr><td>sha256 of the video</td><td><code>{{ told.provenance.video_sha256 }}</code></td></tr>
<tr><td>read by</td><td>{{ told.provenance.decoder }}</td></tr>
{% for family, spec in told.provenance.extraction.items() %}<tr><td>{{ family }}</td>
<td><code>{{ spec | words }}</code></td></tr>
{% endfor %}</table></div>
</body>
</html>
"""


def write_page(
    path: Path,
    told: dict[str, Any],
    found: Scored,
    stills: Iterable[tuple[float, np.ndarray]],
    pairs: Iterable[tuple[float, np.ndarray]],
    command: str,
) -> None:
    """Write the page of one video.

    Args:
        path: .html file; an old one is replaced.
        told: document of the video, see `pipelines.score.document`.
        found: what was scored.
        stills: time in seconds and drawn picture (h, w, 3) uint8 RGB.
        pairs: likewise, of the performance beside its exemplar.
        command: what was typed.

    Raises:
        StorageError: the file cannot be written.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters |= {"points": _points, "words": _words}
    verdict, pose, explained = found.verdict, found.pose, found.explanation
    alt = legend(verdict.parts)
    curves = explained.curves or own_curves(pose)
    page = environment.from_string(_TEMPLATE).render(
        told=told,
        name=Path(told["video"]).name,
        bars=_data("png", bars_png(verdict)),
        timeline=_data("png", timeline_png(verdict, explained.curves)),
        timeline_alt=_timeline_alt(found),
        curves=_data("png", curves_png(curves, verdict, explained.differences)),
        reference=explained.reference,
        ranges=_ranges(pose),
        stills=[
            {"time_s": t, "picture": _jpeg(picture), "alt": f"At {t:.2f} s. {alt}"} for t, picture in stills
        ],
        pairs=[
            {
                "time_s": t,
                "picture": _jpeg(picture),
                "alt": f"At {t:.2f} s, left this dive, right {explained.reference}",
            }
            for t, picture in pairs
        ],
        command=command,
        kind=_KINDS.get(told["exemplar_rule"], ""),
    )
    try:
        write_durably(path, page.encode())
    except OSError as error:
        raise StorageError(path, f"the page cannot be written ({error})", "check the folder") from error


_KINDS = {
    "number": "the same dive number",
    "difficulty": "the same difficulty",
    "rotation": "the same rotation group",
    "any": "any kind",
}


def _points(value: float) -> str:
    return f"{value:.1f}"


def _words(spec: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in spec.items()
    )


def _timeline_alt(found: Scored) -> str:
    told = "; ".join(f"{part.name} {part.delta:+.2f} points" for part in found.verdict.parts)
    strange = ", ".join(f"{one.joint} in {one.part}" for one in found.explanation.differences[:3])
    more = (
        f" Below, how far each limb leaves the range of the references, most the {strange}."
        if strange
        else ""
    )
    return f"Points of the parts over time: {told}.{more}"


def _ranges(pose: dict[str, Any]) -> str:
    """The least and the greatest angle of each joint, in words."""
    from pipelines.scoring.curves import joint_angles

    found = joint_angles(pose["keypoints"], pose["confidence"], pose["skeleton"])
    seen = {name: angle[np.isfinite(angle)] for name, angle in found.items()}
    told = [f"{name} {a.min():.0f} to {a.max():.0f}" for name, a in seen.items() if len(a)]
    return f"Degrees: {', '.join(told)}." if told else ""


def _jpeg(picture: np.ndarray) -> str:
    import cv2

    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done
    return _data("jpeg", data.tobytes())


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if content else ""
