import gc
import importlib.util
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fer_keras.data.images import decode
from fer_keras.detectors import create_detector
from fer_keras.errors import ConfigError, DataError, FerError
from fer_keras.types import Detection

RUNTIMES = [
    "tensorflow",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="needs OpenVINO, which is not installed"),
    ),
]


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


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 40, 3), (40, 0, 3), (1, 1, 3), (1, 300, 3), (300, 1, 3)])
def test_a_picture_with_no_room_for_a_face_has_none(detector, shape):
    assert detector.detect(np.zeros(shape, np.uint8)) == []


def test_in_a_picture_without_a_pixel_no_face_is_found_again():
    assert create_detector("mtcnn").refine(np.zeros((0, 0, 3), np.uint8), [(0, 0, 9, 9)] * 2) == [None, None]


@pytest.mark.parametrize("name", ["haar", "mtcnn"])
@pytest.mark.parametrize("size", [24.5, 24.0, float("nan"), "24"])
def test_a_smallest_face_that_is_no_whole_number_is_refused(name, size):
    with pytest.raises(ConfigError, match=f"the smallest face is a whole number of pixels, got {size!r}"):
        create_detector(name, size)
    assert create_detector(name, np.int64(24)).detect(np.zeros((30, 30, 3), np.uint8)) == []


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


# ---- MTCNN here against the package whose networks it runs


@pytest.fixture(scope="module")
def package():
    """detect(picture, smallest face) as the `mtcnn` package does it, as [(box, score, landmarks)], surest first."""
    from mtcnn import MTCNN
    from mtcnn.stages import stage_pnet

    # It leaves the readers of its weights behind unclosed, of which Python 3.13 complains when they are collected: now, unheard.
    heard, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        network, build = MTCNN(), stage_pnet.build_scale_pyramid
        gc.collect()
    finally:
        sys.unraisablehook = heard

    def without_empty_levels(width, height, **settings):
        scales = build(width, height, **settings)
        return scales[[int(min(width, height) * scale) >= 11 for scale in scales]]

    def detect(picture, min_face_px=20):
        with pytest.MonkeyPatch.context() as patch:
            if min_face_px > 20:  # the package fails on the empty levels that it makes then
                patch.setattr(stage_pnet, "build_scale_pyramid", without_empty_levels)
            faces = network.detect_faces(picture, box_format="xyxy", min_face_size=min_face_px) or []
        names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
        rows = [(face["box"], face["confidence"], [face["keypoints"][name] for name in names]) for face in faces]
        return sorted(rows, key=lambda row: -row[1])

    return detect


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture(scope="module")
def crowd(astronaut):
    """270x480, as the clips: four faces of four sizes."""
    from PIL import Image

    frame = Image.new("RGB", (480, 270), (120, 140, 130))
    for x, y, size in [(0, 0, 200), (210, 10, 150), (370, 30, 100), (230, 165, 100)]:
        frame.paste(Image.fromarray(astronaut).resize((size, size)), (x, y))
    return np.asarray(frame)


@pytest.mark.parametrize("min_face_px", [20, 40])
def test_mtcnn_finds_what_the_package_finds(package, runtime, crowd, astronaut, min_face_px):
    detector = create_detector("mtcnn", min_face_px, runtime)
    assert detector.runtime == runtime
    for picture in (crowd, astronaut[:333, :257], astronaut[40:200, 140:300], crowd.transpose(1, 0, 2).copy()):
        expected = package(picture, min_face_px)
        found = detector.detect(picture)
        assert len(found) == len(expected)
        for face, (box, score, landmarks) in zip(found, expected, strict=True):
            assert overlap(face.box_xyxy_px, box) > 0.95
            assert abs(face.score - score) < 1e-3
            assert np.abs(np.subtract(face.landmarks_xy_px, landmarks)).max() <= 1


@pytest.mark.shared
def test_mtcnn_finds_what_the_package_finds_in_real_pictures(package, shared_dir):
    cv2 = pytest.importorskip("cv2")
    photos = sorted((shared_dir / "data" / "lfw_expressions" / "images").glob("*.jpg"))[::300]
    pictures = [decode(path, 3) for path in photos]
    for clip in sorted((shared_dir / "data" / "video").glob("*.mp4")):
        reader = cv2.VideoCapture(str(clip))
        reader.set(cv2.CAP_PROP_POS_FRAMES, 20)
        pictures.append(np.ascontiguousarray(reader.read()[1][:, :, ::-1]))
    detector = create_detector("mtcnn")
    expected = matched = extra = 0
    for picture in pictures:
        boxes = [box for box, _, _ in package(picture)]
        found = [face.box_xyxy_px for face in detector.detect(picture)]
        expected += len(boxes)
        same = sum(any(overlap(box, other) > 0.9 for other in found) for box in boxes)
        matched, extra = matched + same, extra + len(found) - same
    assert expected > 20
    assert matched >= 0.99 * expected
    assert extra <= 0.01 * expected


def test_frame_sizes_may_alternate(runtime, crowd, astronaut):
    detector = create_detector("mtcnn", runtime=runtime)
    pictures = [crowd[:, :width] for width in (480, 410, 300, 260)] + [astronaut]
    once = [detector.detect(picture) for picture in pictures]
    assert [detector.detect(picture) for picture in pictures] == once
    assert len(once[0]) == 4


def test_several_threads_may_share_a_detector(runtime, crowd, astronaut):
    detector = create_detector("mtcnn", 40, runtime)
    pictures = [crowd, astronaut, crowd[:, ::-1].copy(), np.zeros_like(crowd)]
    alone = [detector.detect(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.detect, pictures * 4)) == alone * 4


def test_a_known_face_is_found_again_near_its_last_place(runtime, astronaut):
    detector = create_detector("mtcnn", runtime=runtime)
    (face,) = detector.detect(astronaut)
    x1, y1, x2, y2 = face.box_xyxy_px
    shifted, empty = (x1 + 12, y1 - 8, x2 + 12, y2 - 8), (20.0, 300.0, 110.0, 400.0)
    again, nothing = detector.refine(astronaut, [shifted, empty])
    assert overlap(again.box_xyxy_px, face.box_xyxy_px) > 0.75 > overlap(shifted, face.box_xyxy_px)
    assert np.abs(np.subtract(again.landmarks_xy_px, face.landmarks_xy_px)).max() < 8
    assert isinstance(again, Detection)
    assert nothing is None
    assert detector.refine(astronaut, []) == []


@pytest.mark.parametrize("box", [(10, 10, 10, 30), (10, 10, float("nan"), 30), (50, 10, 20, 30)])
def test_boxes_without_area_are_refused(box, astronaut):
    with pytest.raises(DataError, match="x1 < x2 and y1 < y2"):
        create_detector("mtcnn").refine(astronaut, [box])


@pytest.mark.parametrize("boxes", [None, [Detection((0.0, 0.0, 9.0, 9.0), 1.0)], [(0, 0, 9)], "boxes"])
def test_what_are_no_boxes_is_refused(boxes, astronaut):
    with pytest.raises(DataError, match=r"boxes must be a list of \(x1, y1, x2, y2\), got"):
        create_detector("mtcnn").refine(astronaut, boxes)


@pytest.mark.parametrize(
    "wrong", [np.zeros((40, 40, 3), np.float32), np.zeros((40, 40, 4), np.uint8), np.zeros((2, 40, 40, 3), np.uint8), "a.png"]
)
def test_pictures_of_another_type_are_refused_with_what_was_given(detector, wrong):
    given = "str" if isinstance(wrong, str) else str(wrong.dtype)
    with pytest.raises(DataError, match=f"uint8 .*got {given}"):
        detector.detect(wrong)


def test_mtcnn_on_openvino_needs_no_tensorflow(astronaut, tmp_path):
    pytest.importorskip("openvino")
    np.save(tmp_path / "a.npy", astronaut)
    code = (
        "import sys, numpy; from fer_keras.detectors import create_detector; "
        f"print(len(create_detector('mtcnn').detect(numpy.load({str(tmp_path / 'a.npy')!r}))), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split() == ["1", "False"]


# Two threads, the first of the process to hand OpenVINO an array, waited for each other for ever (about every third time).
FIRST_ARRAYS_OF_TWO_THREADS = """
import sys, threading
import numpy as np, openvino as ov
from openvino import opset13 as ops
from fer_keras.runtime import compile_openvino

# The interpreter changes threads as often as it can.
sys.setswitchinterval(1e-6)

def request():
    given = ops.parameter([4], np.float32)
    return compile_openvino(ov.Model([ops.relu(given)], [given]), callers=2).create_infer_request()

start = threading.Barrier(2)

def infer(request):
    start.wait()
    request.infer([np.ones(4, np.float32)], share_inputs=True)

threads = [threading.Thread(target=infer, args=(request(),)) for _ in range(2)]
for each in threads: each.start()
for each in threads: each.join()
"""


def test_the_first_arrays_of_openvino_may_come_from_two_threads():
    pytest.importorskip("openvino")
    for _ in range(5):
        subprocess.run([sys.executable, "-c", FIRST_ARRAYS_OF_TWO_THREADS], check=True, timeout=60)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="looks at what glibc's malloc does")
def test_a_stream_of_frames_keeps_its_memory():
    """What a detection frees is not given back to the system to be asked for again: that took as long as the detection."""
    pytest.importorskip("openvino")
    code = """
import resource, numpy as np
from fer_keras.detectors import create_detector

detector = create_detector("mtcnn")
frame = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8).repeat(16, 0).repeat(16, 1)
for _ in range(5):
    detector.detect(frame)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    detector.detect(frame)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
        assert float(done.stdout) < 100  # pages; in most processes 1,500 to 2,800 without


def test_an_unknown_runtime_is_told_with_those_there_are():
    with pytest.raises(ConfigError, match="'cuda'; choose from auto, tensorflow, openvino"):
        create_detector("mtcnn", runtime="cuda")


def test_what_to_install_is_told_where_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn", None)
    with pytest.raises(FerError, match=r"pip install 'mtcnn>=1.0' lz4, or use haar"):
        create_detector("mtcnn")


def test_without_openvino_tensorflow_runs_and_openvino_by_name_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert create_detector("mtcnn").runtime == "tensorflow"
    with pytest.raises(ConfigError, match="pip install openvino"):
        create_detector("mtcnn", runtime="openvino")
