import numpy as np
import pytest

from fer_keras.detectors import create_detector
from fer_keras.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def astronaut():
    return pytest.importorskip("skimage.data").astronaut()  # 512x512; her face is at about (175..270, 60..175)


@pytest.fixture(scope="module", params=["haar", "mtcnn"])
def detector(request):
    return create_detector(request.param)


def overlap(box, other):
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    inside = max(0, width) * max(0, height)
    return inside / ((box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - inside)


def test_the_face_of_an_astronaut_is_found(detector, astronaut):
    found = detector.detect(astronaut)
    assert len(found) == 1
    assert overlap(found[0].box_xyxy_px, (178, 62, 268, 168)) > 0.6


def test_where_there_is_no_face_none_is_found(detector):
    assert detector.detect(np.full((120, 90, 3), 128, np.uint8)) == []
    assert detector.detect(np.zeros((8, 8, 3), np.uint8)) == []


def test_two_faces_are_both_found(detector, astronaut):
    found = detector.detect(np.concatenate([astronaut, astronaut[:, ::-1]], axis=1))
    assert len(found) >= 2
    centres = sorted((each.box_xyxy_px[0] + each.box_xyxy_px[2]) / 2 for each in found[:2])  # the surest
    assert abs(centres[0] - 223) < 15
    assert abs(centres[1] - (1024 - 223)) < 15


def test_what_is_no_rgb_picture_is_refused(detector):
    with pytest.raises(DataError, match=r"uint8 \(h, w, 3\)"):
        detector.detect(np.zeros((40, 40), np.uint8))


def test_mtcnn_landmarks_are_eyes_nose_and_mouth_from_left_to_right(astronaut):
    (face,) = create_detector("mtcnn").detect(astronaut)
    left_eye, right_eye, nose, mouth_left, mouth_right = face.landmarks_xy_px
    assert left_eye[0] < nose[0] < right_eye[0]
    assert mouth_left[0] < mouth_right[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
    assert np.hypot(left_eye[0] - 204, left_eye[1] - 100) < 8


@pytest.mark.parametrize("name", ["haar", "mtcnn"])
@pytest.mark.parametrize("min_face_px", [10, 40, 80])
def test_the_box_does_not_depend_on_the_smallest_face_looked_for(name, min_face_px, astronaut):
    (face,) = create_detector(name, min_face_px).detect(astronaut[:256, 100:356])
    assert overlap(face.box_xyxy_px, (78, 62, 168, 168)) > 0.6


@pytest.mark.parametrize("name", ["haar", "mtcnn"])
def test_smaller_faces_than_asked_for_are_not_found(name, astronaut):
    assert create_detector(name, 200).detect(astronaut) == []


@pytest.mark.parametrize("side", [20, 21, 29, 30, 41, 64])
def test_mtcnn_takes_pictures_as_small_as_its_smallest_face(side, astronaut):
    for min_face_px in (10, 20, 30):
        create_detector("mtcnn", min_face_px).detect(np.ascontiguousarray(astronaut[:side, : side + 3]))


def test_wrong_names_and_sizes_are_told_with_what_there_is():
    with pytest.raises(ConfigError, match="'dlib'; choose from haar, mtcnn"):
        create_detector("dlib")
    with pytest.raises(ConfigError, match="10 pixels or more, got 2"):
        create_detector("haar", 2)
