"""Each corruption measured on faces for which its effect is known by arithmetic."""

import math

import numpy as np
import pytest

from fer_keras.data.corruptions import CORRUPTIONS, corrupt
from fer_keras.errors import ConfigError

SIDE = 48


@pytest.fixture(scope="module")
def faces():
    """Eight random pictures, RGB."""
    return np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)


def flat(value, count=1):
    return np.full((count, SIDE, SIDE, 1), value, np.uint8)


def spot(count=1):
    """A square of 8 pixels in the middle of nothing."""
    picture = flat(0, count)
    picture[:, 20:28, 20:28] = 240
    return picture


def extent(picture):
    """How far the light lies from its mean place: standard deviation along the rows, in pixels."""
    light = picture[..., 0].astype(float).sum(axis=1)
    places = np.arange(SIDE)
    mean = (light * places).sum() / light.sum()
    return math.sqrt((light * (places - mean) ** 2).sum() / light.sum())


def middle(picture):
    """Mean place of the light: (row, column)."""
    light = picture[..., 0].astype(float)
    places = np.arange(SIDE)
    return np.array([(light.sum(axis=1) * places).sum(), (light.sum(axis=0) * places).sum()]) / light.sum()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_shape_and_type_stay_and_every_usual_level_changes_the_face(kind, channels, faces):
    for level in CORRUPTIONS[kind].levels:
        given = faces[..., :channels]
        made = corrupt(given, kind, level, np.arange(8))
        assert made.shape == given.shape and made.dtype == np.uint8
        assert not np.array_equal(made, given)
        assert f"{level:g}" in CORRUPTIONS[kind].describe(level)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_face_is_corrupted_alike_whatever_lies_beside_it(kind, faces):
    level = CORRUPTIONS[kind].levels[-1]
    together = corrupt(faces, kind, level, np.arange(100, 108), seed=3)
    alone = corrupt(faces[5:6], kind, level, np.array([105]), seed=3)
    assert np.array_equal(together[5], alone[0])


@pytest.mark.parametrize("kind", ["noise", "dark", "shift"])
def test_another_seed_or_row_is_another_chance(kind, faces):
    level = CORRUPTIONS[kind].levels[0]
    made = [corrupt(faces[:1], kind, level, np.array([row]), seed=seed)[0] for row, seed in ((0, 0), (1, 0), (0, 1))]
    assert not np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])


def test_blur_widens_a_spot_by_its_sigma():
    before, after = extent(spot()[0]), extent(corrupt(spot(), "blur", 0.05, np.array([0]))[0])
    assert after**2 - before**2 == pytest.approx((0.05 * SIDE) ** 2, rel=0.08)


def test_blur_keeps_the_mean_brightness(faces):
    assert corrupt(faces, "blur", 0.04, np.arange(8)).mean() == pytest.approx(faces.mean(), abs=0.3)


def test_noise_has_the_standard_deviation_asked_for():
    made = corrupt(flat(128, 20), "noise", 0.1, np.arange(20)).astype(float)
    assert made.mean() == pytest.approx(128, abs=1)
    assert made.std() == pytest.approx(25.5, rel=0.02)


def test_dark_keeps_its_share_of_the_light_and_counts_photons():
    made = corrupt(flat(204, 20), "dark", 0.1, np.arange(20)).astype(float)
    assert made.mean() == pytest.approx(20.4, rel=0.02)
    # 80 photons, so a standard deviation of 80 ** 0.5 photons of 0.255 grey levels each; rounding to whole ones adds 1 / 12.
    assert made.std() == pytest.approx(math.sqrt(80 * 0.255**2 + 1 / 12), rel=0.03)


def test_jpeg_keeps_what_is_flat_and_loses_more_of_what_is_fine_the_lower_its_quality(faces):
    assert np.abs(corrupt(flat(77), "jpeg", 10, np.array([0])).astype(int) - 77).max() <= 2
    smooth = np.linspace(40, 200, SIDE)[None, :, None, None] + faces[..., :1] / 8
    smooth = smooth.astype(np.uint8)
    lost = [np.abs(corrupt(smooth, "jpeg", quality, np.arange(8)).astype(int) - smooth).mean() for quality in (90, 50, 10)]
    assert 0 < lost[0] < lost[1] < lost[2]


def test_small_faces_keep_nothing_finer_than_their_pixels():
    lines = flat(0)
    lines[:, ::2] = 200
    assert np.ptp(corrupt(lines, "small", 24, np.array([0]))) <= 1
    halves = flat(0)
    halves[:, :24] = 200
    made = corrupt(halves, "small", 24, np.array([0]))[0, :, 0, 0]
    assert (made[:20] == 200).all() and (made[28:] == 0).all()
    assert np.array_equal(corrupt(lines, "small", 48, np.array([0])), lines)


def test_a_quarter_turn_is_exact_and_goes_both_ways(faces):
    made = corrupt(faces, "roll", 90, np.arange(8))
    turned = {
        (np.array_equal(out, np.rot90(face)), np.array_equal(out, np.rot90(face, -1)))
        for face, out in zip(faces, made, strict=True)
    }
    assert turned == {(True, False), (False, True)}


def test_shift_moves_by_its_share_of_the_side_in_all_directions():
    made = corrupt(spot(64), "shift", 0.1, np.arange(64))
    moved = np.array([middle(picture) for picture in made]) - middle(spot()[0])
    assert np.hypot(*moved.T) == pytest.approx(np.full(64, 4.8), abs=0.15)
    assert {(bool(down), bool(right)) for down, right in moved > 0} == {(a, b) for a in (True, False) for b in (True, False)}


@pytest.mark.parametrize(("kind", "factor"), [("loose", 1 / 1.25), ("tight", 1 / 0.75)])
def test_another_box_shows_the_face_smaller_or_larger_in_place(kind, factor):
    made = corrupt(spot(), kind, 0.25, np.array([0]))[0]
    assert middle(made) == pytest.approx(middle(spot()[0]), abs=0.05)
    # The square's own spread grows with its size; bilinear sampling softens its edges a little.
    assert extent(made) == pytest.approx(factor * extent(spot()[0]), rel=0.06)


def test_where_the_crop_ends_its_border_is_repeated():
    halves = flat(60)
    halves[:, :, 24:] = 180
    assert set(np.unique(corrupt(halves, "loose", 1.0, np.array([0]))[0, :, [0, -1]])) == {60, 180}


def test_no_face_gives_no_face():
    assert corrupt(np.zeros((0, 48, 48, 1), np.uint8), "blur", 0.1, np.array([], int)).shape == (0, 48, 48, 1)


@pytest.mark.parametrize(
    ("kind", "level", "told"),
    [
        ("fog", 1, "unknown corruption 'fog'; choose from blur, noise"),
        ("jpeg", 0, "jpeg takes a level from 1 to 95, got 0"),
        ("tight", 1, "tight takes a level from 0 to 0.9, got 1"),
        ("jpeg", 49.6, "jpeg takes a whole number, got 49.6"),
        ("noise", math.nan, "got nan"),
    ],
)
def test_what_makes_no_sense_is_refused(kind, level, told):
    with pytest.raises(ConfigError, match=told):
        corrupt(flat(0), kind, level, np.array([0]))
