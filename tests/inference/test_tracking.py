import itertools
import math

import numpy as np
import pytest

from fer_keras.errors import ConfigError, DataError
from fer_keras.inference.tracking import SmoothedEmotions, Tracker, _assign
from fer_keras.types import Detection


def face(x, y, side=40.0, score=0.99):
    """A detection with its middle at (x, y)."""
    return Detection((x - side / 2, y - side / 2, x + side / 2, y + side / 2), score)


def follow(tracker, moments):
    """Ids by frame. moments: (time in s, detections; None where the detector does not run)."""
    ids = []
    for time_s, detections in moments:
        tracker.advance(time_s)
        if detections is not None:
            tracker.update(detections)
        ids.append([track.track_id for track in tracker.visible])
    return ids


def middle(track):
    x1, y1, x2, y2 = track.box_xyxy_px  # of a detection, too
    return (x1 + x2) / 2, (y1 + y2) / 2


def test_faces_of_the_first_frame_get_ids_at_once_and_later_ones_when_seen_twice():
    first, second = face(50, 50), face(200, 60)
    ids = follow(Tracker(), [(0.0, [first]), (0.1, [first, second]), (0.2, [first, second]), (0.3, [first, second])])
    assert ids == [[1], [1], [1, 2], [1, 2]]


def test_a_mistake_of_one_frame_is_never_shown_and_uses_up_no_id():
    known, ghost, newcomer = face(50, 50), face(300, 100), face(150, 200)
    moments = [(0.0, [known]), (0.1, [known, ghost]), (0.2, [known])]
    moments += [(0.3 + 0.1 * step, [known, newcomer] if step > 8 else [known]) for step in range(12)]
    assert follow(Tracker(), moments)[-1] == [1, 2]
    assert {track_id for ids in follow(Tracker(), moments) for track_id in ids} == {1, 2}


def test_ids_go_from_left_to_right_and_do_not_depend_on_the_order_of_detections():
    people = [face(50, 50), face(120, 50), face(190, 55), face(260, 60)]
    tracker = Tracker()
    for step, order in enumerate(itertools.permutations(people)):
        tracker.advance(step / 12)
        tracker.update(order)
        assert [track.track_id for track in tracker.visible] == [1, 2, 3, 4]
        assert np.allclose([middle(track)[0] for track in tracker.visible], [50, 120, 190, 260], atol=1)


@pytest.mark.parametrize("fps", [5, 12, 30])
def test_a_moving_face_is_carried_between_detections(fps):
    tracker = Tracker()
    speed, every_s = 60.0, 0.2
    detected_s, errors = -1.0, []
    for frame in range(4 * fps):
        now = frame / fps
        tracker.advance(now)
        if now - detected_s >= every_s - 1e-6:
            tracker.update([face(50 + speed * now, 80)])
            detected_s = now
        (track,) = tracker.visible
        assert track.track_id == 1
        if now > 1:
            errors.append(abs(middle(track)[0] - (50 + speed * now)))
    assert max(errors) < 2  # left where it was detected it would be 12 pixels behind


def test_two_people_who_pass_each_other_keep_their_ids():
    tracker = Tracker()
    for frame in range(49):
        now = frame / 12
        tracker.advance(now)
        tracker.update([face(40 + 50 * now, 60), face(240 - 50 * now, 95)])
    assert [round(middle(track)[0], -1) for track in tracker.visible] == [240, 40]


@pytest.mark.parametrize("away_s", [0.8, 2.0])
def test_who_turns_away_gets_the_same_id_back(away_s):
    here, other = face(100, 100), face(300, 100)
    away = [(1 + 0.2 * step, [other]) for step in range(round(away_s / 0.2))]
    back = [(1 + away_s + 0.2 * step, [face(118, 95), other]) for step in range(3)]
    ids = follow(Tracker(), [(0.0, [here, other]), (0.5, [here, other]), *away, *back])
    assert ids[0] == [1, 2]
    assert [2] in ids  # it was out of view for a while
    assert ids[-3:] == [[1, 2]] * 3


@pytest.mark.parametrize(
    ("when_s", "returning"),
    [(1.0, face(300, 100)), (1.0, face(100, 100, side=90)), (6.0, face(100, 100))],
    ids=["far away", "of another size", "too late"],
)
def test_someone_else_gets_a_new_id(when_s, returning):
    nobody = [(0.2 + 0.2 * step, []) for step in range(round((when_s - 0.2) / 0.2))]
    ids = follow(Tracker(), [(0.0, [face(100, 100)]), *nobody, (when_s, [returning]), (when_s + 0.2, [returning])])
    assert ids[0] == [1]
    assert ids[-1] == [2]


def test_a_face_that_is_not_seen_is_shown_for_a_moment_and_then_gone():
    tracker = Tracker(carry_s=0.5)
    ids = follow(tracker, [(0.0, [face(100, 100)]), *[(0.1 * step, []) for step in range(1, 10)]])
    assert ids == [[1]] * 6 + [[]] * 4
    assert tracker.knows(1)
    tracker.advance(4.0)
    assert not tracker.knows(1)


def test_corrections_move_a_face_and_a_wrong_one_is_not_taken():
    tracker = Tracker()
    follow(tracker, [(0.0, [face(100, 100)])])
    tracker.advance(0.1)
    tracker.correct(tracker.tracks, [face(110, 100)])
    (track,) = tracker.visible
    assert 107 < middle(track)[0] <= 110
    tracker.advance(0.2)
    tracker.correct(tracker.tracks, [face(170, 100)])
    assert middle(track)[0] < 125
    assert track.missed


def test_a_face_that_the_detector_never_finds_again_does_not_live_on_corrections():
    tracker = Tracker(redetect_s=1.0, carry_s=0.5)
    follow(tracker, [(0.0, [face(100, 100)])])
    lived = 0.0
    for step in range(1, 40):
        tracker.advance(0.1 * step)
        tracker.correct(tracker.tracks, [face(100, 100)] * len(tracker.tracks))
        lived = 0.1 * step if tracker.visible else lived
    assert 1.0 < lived < 1.7


def test_of_two_tracks_on_one_face_the_one_that_fits_better_stays():
    tracker = Tracker(carry_s=0.5)
    follow(tracker, [(0.0, [face(100, 100), face(130, 100)])])
    shown = []
    for step in range(1, 9):
        tracker.advance(0.1 * step)
        tracker.correct(tracker.tracks, [face(127, 100)] * len(tracker.tracks))
        shown.append([track.track_id for track in tracker.visible])
    assert shown[0] == [1, 2] and shown[-1] == [2]
    assert [track.missed for track in tracker.tracks] == [False]


@pytest.mark.parametrize("in_front", [1, 2])
@pytest.mark.parametrize("fps", [10, 25])
def test_who_passes_behind_somebody_keeps_the_id(in_front, fps):
    """Two faces cross; who is behind can't be seen, and who looks there finds the face in front."""
    tracker = Tracker()
    detected_s = -1.0

    def overlap(one, other):
        shared = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()
        return shared / (np.prod(np.subtract(one[2:], one[:2])) + np.prod(np.subtract(other[2:], other[:2])) - shared)

    for frame in range(4 * fps):
        now = frame / fps
        people = {1: face(60 + 90 * now, 100, 80), 2: face(420 - 90 * now, 104, 80)}
        covered = overlap(people[1].box_xyxy_px, people[2].box_xyxy_px) > 0.25
        seen = [people[in_front]] if covered else list(people.values())
        tracker.advance(now)
        tracks = tracker.tracks
        if now - detected_s >= 0.2 - 1e-6:
            tracks, detected_s = tracker.update(seen), now
        near = [max(seen, key=lambda each: overlap(each.box_xyxy_px, track.box_xyxy_px)) for track in tracks]
        found = [each if overlap(each.box_xyxy_px, t.box_xyxy_px) > 0.1 else None for each, t in zip(near, tracks, strict=True)]
        tracker.correct(tracks, found)
        for track in tracker.visible:
            if not track.missed:
                assert abs(middle(track)[0] - middle(people[track.track_id])[0]) < 15, now
    assert [track.track_id for track in tracker.visible if not track.missed] == [1, 2]


@pytest.mark.parametrize("every_s", [0.5, 0.75, 1.0, 3.5])
def test_who_comes_later_is_shown_however_far_apart_frames_are(every_s):
    here, later = face(100, 100), face(300, 100)
    moments = [(step * every_s, [here] if step < 3 else [here, later]) for step in range(7)]
    assert follow(Tracker(), moments) == [[1]] * 4 + [[1, 2]] * 3
    gone = [(step * every_s, [] if step > 1 else [here]) for step in range(6)]
    assert follow(Tracker(carry_s=0.3), gone) == [[1]] * 2 + [[]] * 4


def test_after_a_reset_ids_start_from_one_and_time_may_start_again():
    tracker = Tracker()
    follow(tracker, [(5.0, [face(100, 100), face(200, 100)])])
    with pytest.raises(DataError, match=r"4\.0 s after 5\.0 s"):
        tracker.advance(4.0)
    tracker.reset()
    assert follow(tracker, [(0.0, [face(200, 100)])]) == [[1]]


def test_wrong_use_is_told():
    with pytest.raises(ConfigError, match="remember_s is a time of 0 seconds or more, got -1"):
        Tracker(remember_s=-1)
    with pytest.raises(DataError, match="advance"):
        Tracker().update([])


def test_pairs_are_as_many_as_possible_and_then_the_cheapest():
    rng = np.random.default_rng(0)
    for rows, columns in ((3, 3), (2, 4), (4, 2), (0, 2)):
        for _ in range(20):
            costs, allowed = rng.random((rows, columns)) * 5, rng.random((rows, columns)) < 0.6
            pairs = _assign(costs, allowed)
            assert all(allowed[pair] for pair in pairs.items())
            best = (0, 0.0)  # brute force
            for count in range(min(rows, columns) + 1):
                for some in itertools.combinations(range(rows), count):
                    for others in itertools.permutations(range(columns), count):
                        if all(allowed[pair] for pair in zip(some, others, strict=True)):
                            best = min(best, (-count, sum(costs[pair] for pair in zip(some, others, strict=True))))
            assert -len(pairs) == best[0]
            assert sum(costs[pair] for pair in pairs.items()) == pytest.approx(best[1])


# ---- emotions over time


@pytest.mark.parametrize("fps", [5, 10, 25, 100])
def test_smoothing_is_the_same_at_every_frame_rate(fps):
    emotions = SmoothedEmotions(smoothing_s=0.5, lead=0.1)
    emotions.add(np.array([1.0, 0.0]), -20.0)
    emotions.add(np.array([1.0, 0.0]), 0.0)
    for frame in range(1, 2 * fps + 1):
        emotions.add(np.array([0.0, 1.0]), frame / fps)
        if frame == fps:
            assert emotions.probabilities[0] == pytest.approx(math.exp(-1 / 0.5))
    assert emotions.probabilities == pytest.approx([math.exp(-4), 1 - math.exp(-4)])


@pytest.mark.parametrize("fps", [5, 10, 25, 60])
def test_a_wrong_first_frame_is_soon_outweighed(fps):
    emotions = SmoothedEmotions(smoothing_s=0.5, lead=0.1)
    emotions.add(np.array([0.9, 0.1]), 0.0)
    for frame in range(1, fps + 1):
        emotions.add(np.array([0.1, 0.9]), frame / fps)
        if frame / fps >= 0.2:
            assert emotions.shown == 1
    # The first counts for 0.04 s before it, an age of a second for exp(-2).
    first, others = math.exp(-1 / 0.5) - math.exp(-1.04 / 0.5), 1 - math.exp(-1 / 0.5)
    assert emotions.probabilities[0] == pytest.approx((0.9 * first + 0.1 * others) / (first + others))


def test_smoothing_does_not_depend_on_how_regular_frames_come():
    times = np.sort(np.random.default_rng(1).uniform(0, 1.5, 30))
    emotions = SmoothedEmotions(smoothing_s=0.4, lead=0.1)
    emotions.add(np.array([0.2, 0.8]), -20.0)
    emotions.add(np.array([0.2, 0.8]), 0.0)
    for time_s in [*times, 1.5]:
        emotions.add(np.array([0.9, 0.1]), time_s)
    assert emotions.probabilities[0] == pytest.approx(0.9 - 0.7 * math.exp(-1.5 / 0.4))


def test_the_label_shown_changes_only_where_another_is_clearly_ahead():
    emotions = SmoothedEmotions(smoothing_s=0.5, lead=0.1)
    shown, time_s = [], 0.0
    for first in [0.6, 0.48, 0.52, 0.46, 0.44, 0.52, 0.54, 0.58]:
        for _ in range(500):  # 5 s, after which the average is at it
            emotions.add(np.array([first, 1 - first]), time_s)
            time_s += 0.01
        shown.append(emotions.shown)
    assert shown == [0, 0, 0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(("smoothing_s", "apart_s"), [(0.0, 0.04), (0.5, 5.0)])
def test_the_label_is_the_most_probable_where_each_frame_counts_for_itself(smoothing_s, apart_s):
    """A table of frames seconds apart, or without smoothing, named a label of the frame before."""
    emotions = SmoothedEmotions(smoothing_s, lead=0.1)
    for frame, first in enumerate([0.6, 0.48, 0.52, 0.46, 0.505]):
        emotions.add(np.array([first, 1 - first]), frame * apart_s)
        assert emotions.shown == (first < 0.5)


def test_without_smoothing_each_frame_counts_for_itself():
    emotions = SmoothedEmotions(smoothing_s=0.0, lead=0.0)
    for time_s, row in enumerate(([0.9, 0.1], [0.3, 0.7])):
        emotions.add(np.array(row), float(time_s))
        assert emotions.probabilities.tolist() == row
