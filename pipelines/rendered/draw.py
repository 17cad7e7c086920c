"""Draws a posed body: shaded, depth-sorted solids with clothes, hair and a face.

Every solid is a convex outline filled several times, each time smaller, brighter and nearer to the
light, which shades it across. Points are drawn in 1/16 pixel with anti-aliased edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.rendered.body import JOINTS, Camera, Posed

_AT = {name: index for index, name in enumerate(JOINTS)}
_SHIFT = 4
_LAYERS = np.array([1.0, 0.76, 0.5, 0.25])
_SHADES = np.array([0.60, 0.80, 0.97, 1.08])
_HALF_CIRCLE = np.linspace(-np.pi / 2, np.pi / 2, 7)
_CIRCLE = np.linspace(0, 2 * np.pi, 12, endpoint=False)

_SKINS = ((244, 208, 177), (231, 180, 143), (210, 153, 108), (186, 120, 81), (139, 90, 60), (94, 60, 42))
_HAIRS = ((25, 20, 18), (60, 40, 25), (110, 75, 40), (190, 150, 85), (150, 145, 140), (120, 50, 25))


@dataclass(frozen=True)
class Look:
    """Colours (RGB) and clothes of one person, and the light on them.

    `top` and `bottom` are None where the skin is bare; `sleeve` and `trouser` are the covered shares of
    the upper arm plus forearm, and of the thigh plus shank.
    """

    skin: np.ndarray
    hair: np.ndarray
    top: np.ndarray | None
    bottom: np.ndarray
    shoes: np.ndarray | None
    sleeve: float
    trouser: float
    long_hair: bool
    light: np.ndarray
    """(2,) direction to the light in the image."""
    exposure: float
    contrast: float
    """Depth of the shading: 0 flat, 1 strong."""

    @classmethod
    def sample(cls, random: np.random.Generator, swimwear: bool) -> Look:
        """A random person, in swimwear or in sports clothes."""
        skin = np.array(_SKINS[random.integers(len(_SKINS))]) * random.uniform(0.88, 1.1)
        hair = np.array(_HAIRS[random.integers(len(_HAIRS))]) * random.uniform(0.8, 1.2)
        if swimwear and random.random() < 0.3:
            hair = _colour(random)  # bathing cap
        angle = random.uniform(-np.pi, 0) if random.random() < 0.85 else random.uniform(0, np.pi)
        bare = swimwear and random.random() < 0.5
        return cls(
            skin=skin,
            hair=hair,
            top=None if bare else _colour(random),
            bottom=_colour(random),
            shoes=None if swimwear else _colour(random),
            sleeve=0.0 if swimwear else float(random.choice([0.0, 0.3, 0.35, 0.95])),
            trouser=float(random.choice([0.0, 0.15]))
            if swimwear
            else float(random.choice([0.3, 0.45, 0.95])),
            long_hair=bool(random.random() < 0.4),
            light=np.array([np.cos(angle), np.sin(angle)]),
            exposure=float(random.uniform(0.75, 1.15)),
            contrast=float(random.uniform(0.25, 1.0)),
        )


def _colour(random: np.random.Generator) -> np.ndarray:
    """A random cloth colour: from black over saturated to white."""
    if random.random() < 0.35:
        return np.full(3, random.uniform(15, 235)) + random.normal(0, 8, 3)
    hsv = np.array([[[random.integers(180), random.integers(90, 256), random.integers(60, 250)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float)


@dataclass
class _Solids:
    """Outlines ready to fill: (T, N, L, M, 2) points in px, (T, N) depths, N colours."""

    outlines: np.ndarray
    depths: np.ndarray
    colours: list[np.ndarray]


class Figure:
    """One body over time, ready to be drawn frame by frame.

    Args:
        posed: positions of the body.
        camera: camera of the same length.
        look: colours and clothes.
    """

    def __init__(self, posed: Posed, camera: Camera, look: Look):
        self.look, self.camera = look, camera
        solids = _capsules(posed, camera, look)
        self._trunks = [_trunk(posed, camera, look, part) for part in ("lower", "upper")]
        self._solids = solids
        depths = np.concatenate([solids.depths, *(trunk.depths for trunk in self._trunks)], axis=1)
        self._order = np.argsort(-depths, axis=1)
        self._palette = [_shaded(c, look) for c in (*solids.colours, *(t.colours[0] for t in self._trunks))]
        self._marks = _marks(posed, camera, look)

    def draw(self, frame: np.ndarray, time: int) -> None:
        """Draw the body of frame `time` into the (H, W, 3) uint8 RGB `frame`."""
        count = self._solids.outlines.shape[1]
        for part in self._order[time]:
            palette = self._palette[part]
            if part < count:
                layers = self._solids.outlines[time, part]
            else:
                layers = _hull_layers(self._trunks[part - count].outlines[time, 0, 0], self.look.light)
            for outline, colour in zip(layers, palette, strict=True):
                _fill(frame, outline, colour)
            if part in self._marks:
                self._marks[part](frame, time)


def _fill(frame: np.ndarray, outline: np.ndarray, colour: tuple[float, ...]) -> None:
    points = np.clip(outline * (1 << _SHIFT), -30000, 30000).astype(np.int32)
    cv2.fillConvexPoly(frame, points, colour, cv2.LINE_AA, _SHIFT)


def _shaded(colour: np.ndarray, look: Look) -> list[tuple[float, ...]]:
    shades = 0.95 + look.contrast * (_SHADES - 0.95)
    levels = np.clip(colour[None] * (shades * look.exposure)[:, None], 0, 255)
    return [tuple(map(float, level)) for level in levels]


def _capsules(posed: Posed, camera: Camera, look: Look) -> _Solids:
    """Limbs, clothes on them, neck, head and hair as capsules."""
    parts = _limbs(posed, look) + _head(posed, look)
    starts = np.stack([part[0] for part in parts], axis=1)
    ends = np.stack([part[1] for part in parts], axis=1)
    radii = np.array([part[2:4] for part in parts]) * posed.shape.girth
    (first, first_scale), (second, second_scale) = camera.project(starts), camera.project(ends)
    outlines = _outlines(first, second, first_scale * radii[:, 0], second_scale * radii[:, 1], look.light)
    depths = camera.depth(0.5 * (starts + ends)) - np.array([part[5] for part in parts])
    return _Solids(outlines, depths, [part[4] for part in parts])


def _outlines(
    first: np.ndarray, second: np.ndarray, radius: np.ndarray, other: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """Capsules from (T, N, 2) `first` to `second` with radii (T, N), as (T, N, L, M, 2) outlines."""
    along = second - first
    angle = np.arctan2(along[..., 1], along[..., 0])[..., None]
    arc = np.concatenate([angle + np.pi + _HALF_CIRCLE, angle + _HALF_CIRCLE], axis=-1)
    unit = np.stack([np.cos(arc), np.sin(arc)], axis=-1)[:, :, None]
    half = len(_HALF_CIRCLE)
    centre = np.concatenate(
        [np.repeat(first[:, :, None], half, axis=2), np.repeat(second[:, :, None], half, axis=2)], axis=2
    )
    radii = np.concatenate(
        [np.repeat(radius[..., None], half, axis=2), np.repeat(other[..., None], half, axis=2)], axis=2
    )[:, :, None, :, None]
    shrink = _LAYERS[:, None, None]
    return centre[:, :, None] + radii * (shrink * unit + 0.45 * (1 - shrink) * light)


def _limbs(posed: Posed, look: Look) -> list[tuple]:
    """(start, end, radius, end radius, colour, nearness in metres) of arms, legs, hands, feet, clothes."""
    joint = {name: posed.joints[:, index] for name, index in _AT.items()}
    parts = []
    for number, side in enumerate(("right", "left")):
        shoulder, elbow, wrist = (joint[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist"))
        hip, knee, ankle = (joint[f"{side}_{part}"] for part in ("hip", "knee", "ankle"))
        parts += [
            (shoulder, elbow, 0.050, 0.040, look.skin, 0.0),
            (elbow, wrist, 0.040, 0.028, look.skin, 0.0),
            (wrist, wrist + 0.8 * (posed.hands[:, number] - wrist), 0.030, 0.026, look.skin, 0.0),
            (hip, knee, 0.078, 0.055, look.skin, 0.0),
            (knee, ankle, 0.054, 0.036, look.skin, 0.0),
            (posed.heels[:, number], posed.feet[:, number], 0.036, 0.028,
             look.skin if look.shoes is None else look.shoes, 0.0),
        ]  # fmt: skip
        parts += _cloth(shoulder, elbow, wrist, look.sleeve, (0.056, 0.048, 0.036), look.top)
        parts += _cloth(hip, knee, ankle, look.trouser, (0.086, 0.064, 0.048), look.bottom)
    return parts


def _cloth(
    upper: np.ndarray,
    middle: np.ndarray,
    lower: np.ndarray,
    share: float,
    radii: tuple,
    colour: np.ndarray | None,
) -> list[tuple]:
    """Sleeve or trouser leg covering `share` of a limb of two segments."""
    if colour is None or share <= 0:
        return []
    first, second = min(1.0, 2 * share), max(0.0, 2 * share - 1)
    parts = [(upper, upper + first * (middle - upper), radii[0], radii[1], colour, 0.01)]
    if second:
        parts.append((middle, middle + second * (lower - middle), radii[1], radii[2], colour, 0.01))
    return parts


def _head(posed: Posed, look: Look) -> list[tuple]:
    """Neck, head and hair; the hair lies behind and above the face, so the order of depth shows the side."""
    neck, top = posed.joints[:, _AT["upper_neck"]], posed.joints[:, _AT["head_top"]]
    thorax = posed.joints[:, _AT["thorax"]]
    up, forward = posed.head[:, :, 1], posed.head[:, :, 2]
    middle = 0.5 * (neck + top)
    size = posed.shape.head / posed.shape.girth
    parts = [
        (thorax, neck + 0.02 * up, 0.050, 0.046, look.skin, 0.0),
        (middle - 0.10 * posed.shape.head * up + 0.015 * forward, middle + 0.12 * posed.shape.head * up
         + 0.015 * forward, 0.33 * size, 0.38 * size, look.skin, 0.0),
        (middle + 0.03 * up - 0.03 * forward, top - 0.32 * posed.shape.head * up - 0.005 * forward,
         0.36 * size, 0.37 * size, look.hair, 0.004),
    ]  # fmt: skip
    if look.long_hair:
        tail = neck - 0.06 * forward - 0.05 * up
        parts.append((middle - 0.07 * forward, tail, 0.26 * size, 0.16 * size, look.hair, 0.0))
    return parts


def _trunk(posed: Posed, camera: Camera, look: Look, part: str) -> _Solids:
    """Rings of points round the corners of chest or hips: (T, 1, 1, M, 2), whose hull is the outline."""
    joint = {name: posed.joints[:, index] for name, index in _AT.items()}
    shape = posed.shape
    across = 0.5 * shape.hip_width * np.array([1.0, 0.0, 0.0])
    middle = joint["pelvis"] + 0.36 * (joint["thorax"] - joint["pelvis"])
    waist = [middle - posed.chest @ across * 0.72, middle + posed.chest @ across * 0.72]
    if part == "upper":
        inward = posed.chest @ [0.03, -0.03, 0]
        opposite = posed.chest @ [-0.03, -0.03, 0]
        corners = [joint["right_shoulder"] + inward, joint["left_shoulder"] + opposite, *waist]
        radii, colour = [0.066, 0.066, 0.086, 0.086], look.skin if look.top is None else look.top
    else:
        corners = [*waist, joint["right_hip"], joint["left_hip"]]
        radii, colour = [0.086, 0.086, 0.085, 0.085], look.bottom
    points = np.stack(corners, axis=1)
    pixels, scale = camera.project(points)
    radius = scale * np.array(radii) * shape.girth
    circle = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=-1)
    rings = pixels[:, :, None] + radius[..., None, None] * circle
    depth = camera.depth(points).mean(axis=1, keepdims=True) - (0.01 if part == "upper" else 0.0)
    return _Solids(rings.reshape(len(rings), 1, 1, -1, 2), depth, [colour])


def _hull_layers(points: np.ndarray, light: np.ndarray) -> list[np.ndarray]:
    hull = cv2.convexHull(points.astype(np.float32))[:, 0]
    centre = hull.mean(axis=0)
    reach = 0.10 * float(np.abs(hull - centre).max())
    return [centre + (hull - centre) * (0.35 + 0.65 * s) + (1 - s) * reach * light for s in _LAYERS]


def _marks(posed: Posed, camera: Camera, look: Look) -> dict[int, Callable[[np.ndarray, int], None]]:
    """Drawings on top of a solid: a face on the head, a badge on the chest, a line down the back."""
    solids_before = 12 + len(_cloths(look))
    head, chest = solids_before + 1, solids_before + len(_head(posed, look)) + 1
    return {head: _face(posed, camera, look), chest: _badge(posed, camera, look)}


def _cloths(look: Look) -> list[None]:
    """One entry for each capsule of cloth on both sides (see `_cloth`)."""
    pieces = 0
    for share, colour in ((look.sleeve, look.top), (look.trouser, look.bottom)):
        if colour is not None and share > 0:
            pieces += 1 + (2 * share > 1)
    return [None] * (2 * pieces)


def _face(posed: Posed, camera: Camera, look: Look) -> Callable[[np.ndarray, int], None]:
    """Eyes, nose and mouth, each drawn where it faces the camera."""
    neck, top = posed.joints[:, _AT["upper_neck"]], posed.joints[:, _AT["head_top"]]
    up, forward, left = posed.head[:, :, 1], posed.head[:, :, 2], posed.head[:, :, 0]
    size, middle = posed.shape.head, 0.5 * (neck + top)
    eyes = [middle + size * (0.02 * up + 0.36 * forward + side * 0.15 * left) for side in (-1, 1)]
    nose = middle + size * (-0.08 * up + 0.46 * forward)
    mouth = middle + size * (-0.24 * up + 0.34 * forward)
    spots = np.stack([*eyes, nose, mouth], axis=1)
    pixels, scale = camera.project(spots)
    view = spots - camera.position[:, None]
    outward = spots - middle[:, None]
    seen = np.einsum("tnc,tnc->tn", outward, view) < 0
    dark = tuple(map(float, look.skin * 0.28 * look.exposure))
    bright = tuple(map(float, np.clip(look.skin * 1.12 * look.exposure, 0, 255)))
    colours = [dark, dark, bright, tuple(map(float, look.skin * np.array([0.6, 0.4, 0.4]) * look.exposure))]
    radii = size * scale * np.array([0.055, 0.055, 0.06, 0.08])

    def draw(frame: np.ndarray, time: int) -> None:
        for spot in np.flatnonzero(seen[time]):
            centre = (pixels[time, spot] * 16).astype(int).clip(-30000, 30000)
            cv2.circle(
                frame, centre.tolist(), int(radii[time, spot] * 16), colours[spot], -1, cv2.LINE_AA, _SHIFT
            )

    return draw


def _badge(posed: Posed, camera: Camera, look: Look) -> Callable[[np.ndarray, int], None]:
    """Front: a badge on cloth, or the chest's middle line on skin; back: the line of the spine."""
    thorax, pelvis = posed.joints[:, _AT["thorax"]], posed.joints[:, _AT["pelvis"]]
    up, forward, left = posed.chest[:, :, 1], posed.chest[:, :, 2], posed.chest[:, :, 0]
    trunk, girth = posed.shape.trunk, posed.shape.girth
    front = thorax + 0.09 * girth * forward
    back = thorax - 0.09 * girth * forward
    points = [
        front - 0.12 * trunk * up - 0.05 * left, front - 0.12 * trunk * up + 0.05 * left,
        front - 0.32 * trunk * up + 0.05 * left, front - 0.32 * trunk * up - 0.05 * left,
        front - 0.05 * trunk * up, front - 0.55 * trunk * up,
        back - 0.05 * trunk * up, back - 0.62 * trunk * up,
    ]  # fmt: skip
    pixels, scale = camera.project(np.stack(points, axis=1))
    facing = np.einsum("tc,tc->t", forward, 0.5 * (thorax + pelvis) - camera.position) < -0.25
    averted = np.einsum("tc,tc->t", forward, 0.5 * (thorax + pelvis) - camera.position) > 0.25
    base = look.skin if look.top is None else look.top
    line = tuple(map(float, base * 0.55 * look.exposure))
    badge = tuple(map(float, np.clip((255 - base) * 0.8, 0, 255)))

    def draw(frame: np.ndarray, time: int) -> None:
        spots = pixels[time]
        width = max(1, round(0.012 * float(scale[time].mean())))
        corner = (np.clip(spots, -2000, 2000) * 16).astype(int)
        if facing[time] and look.top is not None:
            _fill(frame, spots[:4], badge)
        elif facing[time]:
            cv2.line(frame, corner[4].tolist(), corner[5].tolist(), line, width, cv2.LINE_AA, _SHIFT)
        elif averted[time]:
            cv2.line(frame, corner[6].tolist(), corner[7].tolist(), line, width, cv2.LINE_AA, _SHIFT)

    return draw
