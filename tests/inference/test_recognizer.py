from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fer_keras.data.prepare import PrepareSettings, prepare
from fer_keras.errors import ConfigError, DataError, ModelError
from fer_keras.evaluation.calibration import apply_temperature
from fer_keras.inference.recognizer import DEFAULT_UNCERTAIN_BELOW, Recognizer
from fer_keras.models.exported import load_exported
from fer_keras.types import Detection


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_faces_are_cropped_bit_by_bit_as_in_preparing_data(margin, photograph, detector, edited_model, tmp_path):
    from PIL import Image

    for index, label in enumerate(["happy", "sad"]):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.fromarray(np.roll(photograph, 9 * index, axis=1) // (index + 1)).save(tmp_path / "photos" / label / "a.png")
    settings = {"path": str(tmp_path / "photos"), "crop": "mtcnn", "margin": margin, "faces": "all", "size": 48, "channels": 1}
    dataset = prepare(PrepareSettings("folders", **settings, out=str(tmp_path / "prepared")))
    rows = dataset.manifest[(dataset.manifest["source"] == "happy/a.png") & (dataset.manifest["row"] >= 0)]
    assert len(rows) == 2

    found = sorted(detector.detect(photograph), key=lambda face: -face.area_px)
    faces = Recognizer(edited_model(crop_margin=margin)).crops(photograph, [face.box_xyxy_px for face in found])
    assert faces.dtype == np.uint8
    assert faces.shape == (2, 48, 48, 1)
    prepared = np.asarray(dataset.faces[rows["row"].to_numpy()])
    assert sorted(face.tobytes() for face in prepared) == sorted(face.tobytes() for face in faces)


def test_confidence_is_calibrated_by_the_models_temperature(recognizer, edited_model, photograph, detector):
    faces = recognizer.crops(photograph, [face.box_xyxy_px for face in detector.detect(photograph)])
    raw = load_exported(recognizer.path).predict(faces)
    for temperature in (recognizer.metadata["temperature"], 3.0):
        model = recognizer if temperature != 3.0 else Recognizer(edited_model(temperature=temperature))
        probabilities = model.predict(faces)
        assert probabilities.dtype == np.float32
        assert np.allclose(probabilities, apply_temperature(raw, temperature), atol=1e-3)
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_laughing_woman_is_found_happy(recognizer, detector, photograph):
    boxes = [face.box_xyxy_px for face in detector.detect(photograph)]
    probabilities = recognizer.recognize(photograph, boxes)
    assert [recognizer.labels[row.argmax()] for row in probabilities] == ["happiness", "happiness"]


def test_faces_of_several_streams_go_through_the_model_together(recognizer, photograph):
    boxes = [[(178, 62, 268, 168)], [], [(178, 62, 268, 168), (100, 20, 300, 220), (-20, -30, 60, 50)]]
    pictures = [photograph, photograph, photograph[:, ::-1].copy()]
    together = recognizer.recognize_many(pictures, boxes)
    assert [each.shape for each in together] == [(1, 8), (0, 8), (3, 8)]
    for picture, some, probabilities in zip(pictures, boxes, together, strict=True):
        assert np.allclose(probabilities, recognizer.recognize(picture, some), atol=1e-5)
    assert recognizer.recognize_many([], []) == []
    with pytest.raises(DataError, match="got 3 pictures and boxes of 1"):
        recognizer.recognize_many(pictures, boxes[:1])


def test_no_face_gives_no_answer(recognizer, photograph):
    assert recognizer.crops(photograph, []).shape == (0, 48, 48, 1)
    assert recognizer.recognize(photograph, []).shape == (0, 8)


def test_several_threads_may_share_a_recognizer(recognizer, photograph):
    boxes = [[(178 + step, 62, 268 + step, 168)] * (1 + step % 3) for step in range(12)]
    alone = [recognizer.recognize(photograph, some) for some in boxes]
    with ThreadPoolExecutor(4) as pool:
        for expected, received in zip(alone, pool.map(lambda some: recognizer.recognize(photograph, some), boxes), strict=True):
            assert np.allclose(expected, received, atol=1e-5)


def test_what_a_model_is_can_be_read_from_it(recognizer):
    assert recognizer.name == "ferplus-cnn"
    assert recognizer.labels[:2] == ("neutral", "happiness")
    assert (recognizer.image_size, recognizer.channels) == (48, 1)
    assert recognizer.uncertain_below == DEFAULT_UNCERTAIN_BELOW


def test_the_threshold_of_uncertain_comes_from_the_caller_then_the_model(edited_model):
    folder = edited_model(uncertain_below=0.35)
    assert Recognizer(folder).uncertain_below == 0.35
    assert Recognizer(folder, uncertain_below=0.8).uncertain_below == 0.8
    with pytest.raises(ConfigError, match="from 0 to 1, got 40"):
        Recognizer(folder, uncertain_below=40)


@pytest.mark.parametrize("wrong", [np.zeros((50, 50, 3), np.float32), np.zeros((50, 50), np.uint8), [[1, 2]]])
def test_pictures_of_another_type_are_refused(recognizer, wrong):
    with pytest.raises(DataError, match=r"takes uint8 \(h, w, 3\) RGB, got"):
        recognizer.crops(wrong, [(0, 0, 10, 10)])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([Detection((0.0, 0.0, 9.0, 9.0), 1.0)], r"\(x1, y1, x2, y2\), got a Detection; give its box_xyxy_px"),
        ((0.0, 0.0, 9.0, 9.0), r"expected a list of boxes \(x1, y1, x2, y2\), got 0.0 as one of them"),
        ([(0, 0, 9)], r"got \(0, 0, 9\) as one of them"),
        ([(0, 0, 9, 9, 9)], r"got \(0, 0, 9, 9, 9\) as one"),
        ([(0, 0, "a", 9)], "got .*'a'.* as one"),
        (np.zeros((1, 9, 4)), r"got array\(.* as one of them"),
        (None, "got None"),
        ([(0, 0, np.inf, 10)], "too large for a face"),
        ([(0, 0, 1e5, 1e5)], "too large for a face"),
        ([(0, 0, np.nan, 10)], "no area inside"),
    ],
)
def test_what_is_no_list_of_boxes_is_refused(recognizer, photograph, boxes, message):
    for call in (recognizer.crops, recognizer.recognize):
        with pytest.raises(DataError, match=message) as caught:
            call(photograph, boxes)
        assert "\n" not in str(caught.value)


def test_boxes_may_be_an_array(recognizer, photograph):
    boxes = [(178.4, 62.5, 268.0, 168.0), (-20, -30, 60, 50)]
    assert np.array_equal(recognizer.crops(photograph, np.array(boxes)), recognizer.crops(photograph, boxes))


def test_boxes_outside_the_picture_are_refused(recognizer, photograph):
    with pytest.raises(DataError, match="no area inside"):
        recognizer.recognize(photograph, [(600, 10, 650, 60)])


@pytest.mark.parametrize("shape", [(2, 48, 48, 3), (48, 48, 1), (2, 96, 96, 1)])
def test_faces_of_another_shape_are_refused(recognizer, shape):
    with pytest.raises(ModelError, match=r"takes uint8 faces of shape \(n, 48, 48, 1\), got uint8"):
        recognizer.predict(np.zeros(shape, np.uint8))
    with pytest.raises(ModelError, match="got float32"):
        recognizer.predict(np.zeros((2, 48, 48, 1), np.float32))
