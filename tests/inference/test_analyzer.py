import json
from collections import defaultdict

import numpy as np
import pytest

from fer_keras.detectors import create_detector
from fer_keras.errors import ConfigError, DataError
from fer_keras.inference.analyzer import Analyzer
from fer_keras.inference.recognizer import Recognizer
from fer_keras.types import Detection


class SeenFaces:
    """A detector that is told what it finds, and counts how often it is asked."""

    def __init__(self, boxes):
        self.boxes, self.calls = boxes, 0

    def detect(self, image_rgb):
        self.calls += 1
        return [Detection(tuple(map(float, box)), 0.99) for box in self.boxes]


FACE = (178, 62, 268, 168)


@pytest.fixture
def analyzer(recognizer, detector):
    return Analyzer(recognizer, detector)


def play(analyzer, frames, fps):
    return [analyzer.analyze(frame, index / fps) for index, frame in enumerate(frames)]


def test_faces_are_followed_and_recognised(analyzer, photograph):
    answers = play(analyzer, [np.roll(photograph, 2 * step, axis=1) for step in range(12)], fps=12)
    assert [[face.track_id for face in faces] for faces in answers] == [[1, 2]] * 12
    for step, faces in enumerate(answers):
        x1, _, x2, _ = faces[0].box_xyxy_px
        assert abs((x1 + x2) / 2 - (223 + 2 * step)) < 6
        for face in faces:
            assert face.label == "happiness"
            assert face.confidence == face.probabilities[1] > 0.9
            assert not face.uncertain
            assert sum(face.probabilities) == pytest.approx(1, abs=1e-5)
            assert len(face.landmarks_xy_px) == 5
    assert sum(faces[0].detected for faces in answers) == 4  # every 0.2 s, which is every third of these frames
    assert set(analyzer.last_stage_s) == {"detect", "recognize", "track"}
    assert all(seconds >= 0 for seconds in analyzer.last_stage_s.values())


@pytest.mark.parametrize(("fps", "every_s", "calls"), [(10, 0.0, 21), (10, 0.2, 11), (10, 0.5, 5), (50, 0.2, 11), (2, 0.2, 5)])
def test_the_detector_runs_as_often_as_asked(recognizer, photograph, fps, every_s, calls):
    detector = SeenFaces([FACE])
    play(Analyzer(recognizer, detector, detect_every_s=every_s), [photograph] * (2 * fps + 1), fps)
    assert detector.calls == calls


def test_a_detector_that_can_not_look_again_is_enough(recognizer, photograph):
    answers = play(Analyzer(recognizer, create_detector("haar", 60)), [photograph] * 8, fps=12)
    assert [[face.track_id for face in faces] for faces in answers] == [[1, 2]] * 8
    assert [faces[0].detected for faces in answers] == [True, False, False] * 2 + [True, False]


def test_nobody_in_the_picture_is_an_empty_answer(analyzer, photograph):
    assert play(analyzer, [np.full_like(photograph, 90)] * 3, fps=12) == [[], [], []]


def test_all_faces_of_a_frame_go_through_the_model_in_one_call(shipped, photograph):
    recognizer = Recognizer(shipped)
    sizes, predict = [], recognizer._predict
    recognizer._predict = lambda faces: sizes.append(len(faces)) or predict(faces)
    play(Analyzer(recognizer, SeenFaces([FACE, (10, 10, 90, 90), (300, 200, 380, 280)])), [photograph] * 4, fps=12)
    assert sizes == [3, 3, 3, 3]


def test_an_answer_is_uncertain_below_the_threshold(shipped, photograph):
    noise = np.random.default_rng(0).integers(0, 256, photograph.shape, np.uint8)
    frames = [photograph, noise]
    for threshold in (0.0, 0.5, 1.0):
        analyzer = Analyzer(Recognizer(shipped, uncertain_below=threshold), SeenFaces([FACE]), smoothing_s=0.0)
        for (face,) in play(analyzer, frames, fps=1):
            assert face.uncertain == (face.confidence < threshold)


def test_probabilities_follow_a_change_at_the_same_pace_at_every_frame_rate(recognizer, photograph):
    happy, dull = photograph, np.full_like(photograph, 128)
    ends = [recognizer.recognize(frame, [FACE])[0] for frame in (happy, dull)]
    for fps in (5, 20):
        analyzer = Analyzer(recognizer, SeenFaces([FACE]), smoothing_s=0.5)
        answers = play(analyzer, [happy] * (fps + 1) + [dull] * fps, fps)
        # The mean since the face came, where what is 0.5 s old counts for 1/e; the first frame for 0.04 s.
        old, new = np.exp(-1 / 0.5) - np.exp(-2.04 / 0.5), 1 - np.exp(-1 / 0.5)
        expected = (old * ends[0] + new * ends[1]) / (old + new)
        assert np.allclose(answers[-1][0].probabilities, expected, atol=1e-4)


def test_another_model_may_take_over_while_the_stream_runs(analyzer, photograph, edited_model):
    (face, _) = analyzer.analyze(photograph, 0.0)
    labels = ["a", "b", "c", "d", "e", "f", "g", "h"]
    analyzer.recognizer = Recognizer(edited_model("other", labels=labels, temperature=5.0))
    (other, _) = analyzer.analyze(photograph, 0.1)
    assert (other.track_id, other.label) == (face.track_id, "b")
    # nothing of the old model's answer is averaged in
    assert np.allclose(other.probabilities, analyzer.recognizer.recognize(photograph, [other.box_xyxy_px])[0], atol=1e-3)


def test_a_video_that_starts_again_is_another_one(analyzer, photograph):
    answers = play(analyzer, [photograph] * 3, fps=1) + play(analyzer, [photograph[:, ::-1].copy()] * 3, fps=1)
    assert [[face.track_id for face in faces] for faces in answers] == [[1, 2]] * 6


def test_who_leaves_the_picture_is_gone_and_who_turns_away_returns(analyzer, photograph):
    half = photograph.copy()
    half[:, 340:] = 90  # the second face is hidden
    frames = [photograph] * 6 + [half] * 18 + [photograph] * 6
    ids = [[face.track_id for face in faces] for faces in play(analyzer, frames, fps=12)]
    assert ids[5] == [1, 2]
    assert ids[20] == [1]
    assert ids[-1] == [1, 2]


def test_a_face_that_is_not_seen_is_told_to_be_where_it_is_expected(analyzer, photograph):
    empty = photograph.copy()
    empty[40:200, 150:300] = empty[200:350, 380:505] = 90
    answers = play(analyzer, [photograph] * 3 + [empty] * 12, fps=12)
    assert all(face.seen for faces in answers[:3] for face in faces)
    assert [face.track_id for face in answers[3]] == [1, 2] and not any(face.seen for face in answers[3])
    assert answers[3][0].probabilities == answers[2][0].probabilities
    assert answers[-1] == []


def shots(photograph):
    """Two scenes with a face each, at about the same place."""
    ground = np.linspace(0, 255, 512)[None, :, None] * np.ones((360, 1, 3))
    one, other = ground.astype(np.uint8), ground[:, ::-1].astype(np.uint8)
    one[60:180, 170:280] = photograph[60:180, 170:280]
    other[60:180, 165:275] = photograph[60:180, 170:280][:, ::-1]
    return one, other


def test_at_a_cut_ids_end_and_the_scene_that_comes_back_has_its_own(recognizer, detector, photograph):
    one, other = shots(photograph)
    film = [one] * 6 + [other] * 6 + [one] * 6 + [other // 2] * 6
    asked = []
    analyzer = Analyzer(recognizer, SeenFaces([FACE]))
    recognize = recognizer.recognize
    for index, frame in enumerate(film):
        if index == 9:  # a break in the middle of a scene changes nothing
            state = json.loads(json.dumps(analyzer.state()))
            analyzer = Analyzer(recognizer, SeenFaces([FACE]))
            analyzer.restore(state)
        (face,) = analyzer.analyze(frame, index / 12)
        asked.append(face)
    assert [face.track_id for face in asked] == [1] * 6 + [2] * 6 + [1] * 6 + [2] * 6
    # Nothing of the scene before is averaged in.
    assert np.allclose(asked[6].probabilities, recognize(other, [asked[6].box_xyxy_px])[0], atol=1e-3)
    lit = play(Analyzer(recognizer, SeenFaces([FACE])), [one // 4, one, one // 2, one], fps=12)
    assert [face.track_id for (face,) in lit] == [1] * 4  # light alone is no cut
    slow = play(Analyzer(recognizer, SeenFaces([FACE])), [one, other, one], fps=2)
    assert [face.track_id for (face,) in slow] == [1] * 3  # between frames so far apart the camera may have turned


def test_what_stood_before_the_camera_for_a_while_ends_no_ids(analyzer, photograph):
    hidden = np.linspace(250, 0, 360)[:, None, None] * np.ones(photograph.shape)
    # It comes in from the left, and is gone at once.
    edges = np.arange(512)[None, :, None]
    coming = [np.where(edges < edge, hidden, photograph).astype(np.uint8) for edge in range(64, 513, 64)]
    answers = play(analyzer, [photograph] * 3 + coming + [coming[-1]] * 10 + [photograph] * 4, fps=12)
    assert [face.track_id for face in answers[2]] == [face.track_id for face in answers[-1]] == [1, 2]
    assert answers[20] == []


def test_a_third_scene_has_new_ids(recognizer, photograph):
    one, other = shots(photograph)
    third = np.broadcast_to(np.linspace(0, 255, 360)[:, None, None], one.shape).astype(np.uint8)
    film = [one] * 4 + [other] * 4 + [third] * 4
    answers = play(Analyzer(recognizer, SeenFaces([FACE])), film, fps=12)
    assert [face.track_id for (face,) in answers] == [1] * 4 + [2] * 4 + [3] * 4


def test_wrong_settings_and_pictures_are_told(recognizer, detector, analyzer):
    with pytest.raises(ConfigError, match="smoothing_s is a time of 0 seconds or more, got -1"):
        Analyzer(recognizer, detector, smoothing_s=-1)
    with pytest.raises(DataError, match="uint8"):
        analyzer.analyze(np.zeros((100, 100, 3)), 0.0)


@pytest.mark.parametrize("wrong", [None, np.zeros((360, 512), np.uint8), np.zeros((360, 512, 4), np.uint8), [[[1, 2, 3]]]])
def test_after_a_frame_that_is_no_picture_the_stream_goes_on(analyzer, photograph, wrong):
    play(analyzer, [photograph] * 2, fps=10)
    before = json.dumps(analyzer.state())
    for time_s in (0.2, 0.0):
        with pytest.raises(DataError, match=r"an analyzer takes uint8 \(h, w, 3\) RGB, got"):
            analyzer.analyze(wrong, time_s)
    assert json.dumps(analyzer.state()) == before
    assert [face.track_id for face in analyzer.analyze(photograph, 0.2)] == [1, 2]


def test_in_a_frame_without_a_pixel_nobody_is_seen(analyzer, photograph):
    empty = np.zeros((0, 0, 3), np.uint8)
    assert analyzer.analyze(empty, 0.0) == []
    play(analyzer, [photograph] * 2, fps=10)
    assert analyzer.analyze(empty, 0.2) == []


# ---- real clips

#: Where the people of each clip are, in pixels from the left, and how far their faces may stray.
CLIPS = {
    "classroom": ([73, 134, 237, 320], 20),
    "head-pose-face-detection-female-and-male": ([85, 342], 60),
}


def analyzed(shared_dir, clip, analyzer):
    """The answers for each frame of a clip."""
    cv2 = pytest.importorskip("cv2")
    reader = cv2.VideoCapture(str(shared_dir / "data" / "video" / f"{clip}.mp4"))
    frames = []
    while (read := reader.read())[0]:
        frames.append(np.ascontiguousarray(read[1][:, :, ::-1]))
    assert len(frames) > 20
    return play(analyzer, frames, reader.get(cv2.CAP_PROP_FPS))


@pytest.mark.shared
@pytest.mark.parametrize("clip", CLIPS)
def test_people_of_a_real_clip_keep_their_ids_from_the_first_frame_to_the_last(shared_dir, clip, analyzer):
    places, reach = CLIPS[clip]
    answers = analyzed(shared_dir, clip, analyzer)
    ids = defaultdict(set)
    for faces in answers:
        people = []
        for face in faces:
            x = (face.box_xyxy_px[0] + face.box_xyxy_px[2]) / 2
            person = int(np.argmin([abs(x - place) for place in places]))
            assert abs(x - places[person]) < reach
            people.append(person)
            ids[person].add(face.track_id)
        assert sorted(people) == list(range(len(places)))  # everybody, once, in every frame
    assert [ids[person] for person in sorted(ids)] == [{person + 1} for person in range(len(places))]  # one id each


@pytest.mark.shared
def test_people_who_walk_up_get_one_id_each_and_keep_it(shared_dir, analyzer):
    answers = analyzed(shared_dir, "face-demographics-walking", analyzer)
    assert {face.track_id for faces in answers for face in faces} == {1, 2}
    assert [face.track_id for face in answers[-1]] == [1, 2]
    for track_id in (1, 2):
        seen = [any(face.track_id == track_id for face in faces) for faces in answers]
        assert all(seen[seen.index(True) :])
