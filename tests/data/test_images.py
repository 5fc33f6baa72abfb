import contextlib
import io
import os
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, features

from fer_keras.data import images
from fer_keras.errors import ConfigError, DataError


def encoded(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_a_png_comes_back_pixel_by_pixel_from_path_and_bytes(tmp_path, colours):
    (tmp_path / "x.png").write_bytes(encoded(colours))
    assert np.array_equal(images.decode(tmp_path / "x.png", 3), colours)
    assert np.array_equal(images.decode(encoded(colours), 3), colours)


def test_grey_is_itu_r_601_luma(colours):
    grey = images.decode(encoded(colours), 1)
    by_hand = colours @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (20, 30, 1)
    assert np.abs(grey[:, :, 0] - by_hand).max() <= 1
    assert np.array_equal(images.to_channels(colours, 1), grey)


def test_grey_to_rgb_repeats_the_channel():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    rgb = images.to_channels(grey, 3)
    assert rgb.shape == (3, 4, 3)
    assert all(np.array_equal(rgb[:, :, channel], grey[:, :, 0]) for channel in range(3))


def test_exif_orientation_is_applied(colours):
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    assert np.array_equal(images.decode(encoded(colours, exif=exif), 3), np.rot90(colours, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_every_pillow_mode_is_read(mode):
    source = Image.new(mode, (9, 7))
    file = io.BytesIO()
    source.save(file, "TIFF")
    for channels in (1, 3):
        assert images.decode(file.getvalue(), channels).shape == (7, 9, channels)


def test_16_bit_pictures_are_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert images.decode(encoded(values), 1)[0, :, 0].tolist() == [0, 1, 128, 255]


def tiff(values, **tags):
    """A grey TIFF; tags: MaxSampleValue."""
    return encoded(values, "TIFF", tiffinfo={281: tags["MaxSampleValue"]} if tags else {})


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_a_dark_16_bit_picture_stays_dark_where_the_format_tells_its_range(kind):
    values = np.array([[0, 100, 255]], np.uint16)
    assert images.decode(encoded(values, kind), 1)[0, :, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(("largest", "white"), [(200, 255), (900, 1023), (3000, 4095), (9000, 16383), (20000, 65535)])
def test_a_16_bit_tiff_has_the_fewest_bits_that_hold_its_largest_value(largest, white):
    values = np.array([[0, largest // 2, largest]], np.uint16)
    expected = np.rint(values[0] / white * 255).tolist()
    assert images.decode(tiff(values), 1)[0, :, 0].tolist() == expected
    assert images.decode(encoded(values.astype(np.int32), "TIFF"), 1)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("stated", "white"),
    [(4095, 4095), (3500, 4095), (65535, 65535), (7, 1023), (0, 1023)],  # 3500: some state the largest value that occurs
)
def test_a_tiff_that_states_its_largest_value_is_scaled_by_that(stated, white):
    values = np.array([[0, 300, 900]], np.uint16)
    assert images.decode(tiff(values, MaxSampleValue=stated), 1)[0, :, 0].tolist() == np.rint(values[0] / white * 255).tolist()


@pytest.mark.parametrize(
    ("bits", "stated", "packed", "expected"),
    [
        (12, None, (300 << 12 | 600).to_bytes(3, "big") + b"\0", [19, 37]),  # two values in three bytes: of 4095
        (16, 2**32 - 1, b"\x2c\1\x00\x80", [1, 128]),  # more than its bits can hold: of 65535
    ],
)
def test_a_tiff_has_no_larger_values_than_its_bits_hold(bits, stated, packed, expected):
    """Tags number by number, since Pillow writes no such files."""
    entries = [(256, 2), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 4)]
    entries += [(281, stated)] if stated else []
    file = b"II*\0" + (12).to_bytes(4, "little") + packed + len(entries).to_bytes(2, "little")
    for tag, value in entries:
        file += tag.to_bytes(2, "little") + b"\4\0" + b"\1\0\0\0" + value.to_bytes(4, "little")
    assert images.decode(file + b"\0" * 4, 1)[0, :, 0].tolist() == expected


def test_floats_from_0_to_1_are_parts_of_white_and_others_are_grey_levels():
    def decoded(*values):
        return images.decode(encoded(np.array([values], np.float32), "TIFF"), 1)[0, :, 0].tolist()

    assert decoded(0, 0.5, 1) == [0, 128, 255]
    assert decoded(0, 0.1, 0.2) == [0, 26, 51]
    assert decoded(0, 1, 254.6) == [0, 1, 255]
    assert decoded(-1, 0, 1) == [0, 0, 1]
    assert decoded(0, 2000, 4000) == [0, 125, 249]
    assert decoded(np.nan, np.inf, -np.inf, 0.5, 1) == [0, 255, 0, 0, 1]  # not within 0..1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, kind, colours):
    path = tmp_path / f"half.{kind.lower()}"
    whole = encoded(colours, kind)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"half.{kind.lower()}"):
        images.decode(path, 3)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + b"\0" * 50])
def test_what_is_no_picture_is_an_error(content):
    with pytest.raises(DataError, match="can't be read"):
        images.decode(content, 1)


def test_damaged_bytes_never_raise_anything_else(colours):
    random = np.random.default_rng(1)
    kinds = ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "JPEG2000", "PPM"]
    for kind in kinds + ["AVIF"] * features.check("avif"):
        whole = np.frombuffer(encoded(colours, kind), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[random.integers(0, len(damaged), 4)] = random.integers(0, 256, 4)
            with contextlib.suppress(DataError):
                assert images.decode(damaged.tobytes(), 3).dtype == np.uint8


def test_a_missing_file_and_a_wrong_channel_count_are_told(tmp_path):
    with pytest.raises(DataError, match="nowhere.png does not exist"):
        images.decode(tmp_path / "nowhere.png", 1)
    with pytest.raises(ConfigError, match="got 4"):
        images.decode(b"", 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_only_where_a_shell_has_opened_it(tmp_path, colours):
    data = encoded(colours)
    os.mkfifo(tmp_path / "cam.png")
    threading.Thread(target=(tmp_path / "cam.png").write_bytes, args=[data], daemon=True).start()
    with pytest.raises(DataError, match="cam.png is a pipe or a device, not a file"):
        images.decode(tmp_path / "cam.png", 3)
    assert (tmp_path / "cam.png").read_bytes() == data  # which lets the writer end
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb") as written:
        written.write(data)
        written.close()
        np.testing.assert_array_equal(images.decode(f"/dev/fd/{reading}", 3), colours)


def test_a_picture_larger_than_any_camera_takes_is_refused_before_it_is_decoded():
    header = b"P5 20000 20000 255\n"  # 400 megapixels in 19 bytes
    with pytest.raises(DataError, match="too large"):
        images.decode(header, 1)


def test_resizing_to_the_same_size_changes_nothing(colours):
    square = colours[:20, :20]
    assert images.resize(square, 20) is square


def test_shrinking_averages_areas():
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 1), dtype=np.uint8)
    by_hand = picture.reshape(48, 2, 48, 2).mean(axis=(1, 3))
    assert np.abs(images.resize(picture, 48)[:, :, 0] - by_hand).max() <= 1  # rounded along rows, then along columns
    assert images.resize(picture, 200).shape == (200, 200, 1)


def test_a_crop_is_a_square_around_the_box_with_its_margin():
    image = np.arange(100 * 100, dtype=np.uint32).reshape(100, 100, 1).astype(np.uint8)
    assert np.array_equal(images.crop_box(image, (20, 30, 40, 50)), image[30:50, 20:40])
    assert np.array_equal(images.crop_box(image, (20, 30, 40, 50), margin=0.5), image[20:60, 10:50])
    assert np.array_equal(images.crop_box(image, (20, 30, 40, 70)), image[30:70, 10:50])  # 20 wide, 40 high


def test_a_crop_that_reaches_outside_repeats_the_border():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    assert images.crop_box(image, (-1, -1, 2, 2))[:, :, 0].tolist() == [[0, 0, 1], [0, 0, 1], [4, 4, 5]]


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (200, 0, 210, 10), (0, -20, 10, -10), (9, 9, 5, 5)])
def test_a_box_without_area_in_the_picture_is_an_error(box):
    with pytest.raises(DataError, match="no area"):
        images.crop_box(np.zeros((100, 100, 3), np.uint8), box)


@pytest.mark.parametrize(
    "box", [(0, 0, np.inf, 10), (-np.inf, 0, 10, 10), (0, 0, 1e5, 1e5), (-1e5, 0, 10, 10), (0, 0, 1e200, 1), (0, 0, 10**400, 1)]
)
def test_a_box_far_larger_than_any_face_is_an_error(box):
    with pytest.raises(DataError, match="is too large for a face in a picture of 100x80 pixels"):
        images.crop_box(np.zeros((80, 100, 3), np.uint8), box)


def test_a_box_around_the_whole_picture_and_more_is_cropped_at_its_size():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    assert images.crop_box(image, (-298, -298, 302, 302)).shape == (600, 600, 1)
    assert images.crop_box(image, (-298, -298, 302, 302), margin=0.5)[600, 600] == image[2, 2]


def test_parallel_results_keep_their_order_and_run_only_a_little_ahead():
    started, lock = [], threading.Lock()

    def work(item):
        with lock:
            started.append(item)
        return item * 2

    results = images.in_parallel(work, range(1000), workers=2)
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    assert len(started) < 30
    assert list(results) == [2 * item for item in range(3, 1000)]


@pytest.mark.parametrize("orientation_first", [True, False])
@pytest.mark.parametrize(("tag", "kind"), [(0x0100, 2), (0x010F, 11), (0x0132, 3)])
def test_odd_metadata_costs_no_picture(colours, tag, kind, orientation_first):
    """An entry of a type that no writer gives it, beside the orientation "turn by 90 degrees"."""
    entries = [(0x0112, 3, b"\0\x06\0\0"), (tag, kind, b"\0\x01\0\0")]
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\2"
    for number, of_kind, value in entries if orientation_first else entries[::-1]:
        exif += number.to_bytes(2, "big") + of_kind.to_bytes(2, "big") + b"\0\0\0\1" + value
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "JPEG", exif=exif + b"\0\0\0\0", quality=100, subsampling=0)
    np.testing.assert_allclose(images.decode(file.getvalue(), 3).astype(int), np.rot90(colours, -1), atol=40)


def test_reading_in_threads_leaves_the_warnings_of_the_process_alone(colours):
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "PNG")
    before = list(warnings.filters)
    for _ in range(3):
        list(images.in_parallel(lambda data: images.decode(data, 3), [file.getvalue()] * 200))
    assert warnings.filters == before
