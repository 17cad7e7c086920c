"""The camera's motion is found although people move, and is unknown where nothing tells it."""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.stages.camera import camera_motion

SIZE = (320, 240)


def world(seed: int = 0) -> np.ndarray:
    """A textured picture larger than the frame."""
    noise = np.random.default_rng(seed).uniform(0, 255, (100, 140, 3)).astype(np.float32)
    return cv2.resize(noise, (560, 400), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def view(x: float, y: float, zoom: float = 1.0) -> np.ndarray:
    """What a camera aimed at (x, y) of the world shows."""
    matrix = np.array([[zoom, 0, -zoom * x], [0, zoom, -zoom * y]])
    return cv2.warpAffine(world(), matrix, SIZE, flags=cv2.INTER_LINEAR)


def person(frame: np.ndarray, x: int) -> np.ndarray:
    frame[60:200, x : x + 60] = np.random.default_rng(7).integers(0, 255, (140, 60, 3), np.uint8)
    return np.array([[x, 60, x + 60, 200]], np.float32)


def test_a_pan_is_found_beside_a_person_who_stays_in_the_picture():
    frames = np.stack([view(40 + 5.0 * step, 50 + 2.0 * step) for step in range(5)])
    boxes = [person(frame, 120) for frame in frames]
    camera, change = camera_motion(frames, boxes, SIZE)
    assert np.isnan(camera[0]).all()
    assert np.isnan(change[0])
    np.testing.assert_allclose(camera[1:, 2], -5.0, atol=0.3)
    np.testing.assert_allclose(camera[1:, 3], -2.0, atol=0.3)
    np.testing.assert_allclose(camera[1:, 0], 1.0, atol=5e-3)


def test_a_still_camera_has_no_motion_although_a_person_was_missed():
    frames = np.stack([view(40, 50) for _ in range(4)])
    for step, frame in enumerate(frames):
        person(frame, 60 + 20 * step)
    camera, _ = camera_motion(frames, [np.empty((0, 4), np.float32)] * 4, SIZE)
    np.testing.assert_allclose(camera[1:], np.tile([1, 0, 0, 0], (3, 1)), atol=0.1)


def test_a_zoom_is_told_in_pixels_of_the_upright_frame():
    frames = np.stack([view(100, 80), view(100, 80, 1.05)])
    camera, _ = camera_motion(frames, [np.empty((0, 4), np.float32)] * 2, (SIZE[0] * 4, SIZE[1] * 4))
    assert abs(camera[1, 0] - 1.05) < 0.005
    np.testing.assert_allclose(camera[1, 2:], 0, atol=4.0)


def test_blank_pictures_tell_nothing():
    camera, change = camera_motion(np.zeros((3, 240, 320, 3), np.uint8), [np.empty((0, 4))] * 3, SIZE)
    assert np.isnan(camera).all()
    assert change[1:].tolist() == [0.0, 0.0]


def test_change_is_the_mean_difference_of_grey_levels():
    frames = np.stack([np.full((240, 320, 3), level, np.uint8) for level in (10, 70)])
    assert camera_motion(frames, [np.empty((0, 4))] * 2, SIZE)[1][1] == 60.0
