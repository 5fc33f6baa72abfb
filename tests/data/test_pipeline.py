import dataclasses

import numpy as np
import pytest

from fer_keras.data import pipeline
from fer_keras.data.balance import balanced_weights, cells
from fer_keras.data.dataset import DatasetWriter
from fer_keras.errors import ConfigError, DataError

SIZE, COUNT = 24, 50
STILL = {"flip": False, "rotate_deg": 0, "shift": 0, "zoom": 0, "brightness": 0, "contrast": 0, "erase": 0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Face i is a bright block on grey i; three quarters are anger, one quarter fear."""
    with DatasetWriter(tmp_path_factory.mktemp("data") / "d", image_size=SIZE, channels=1) as writer:
        for index in range(COUNT):
            face = np.full((SIZE, SIZE, 1), index, np.uint8)
            face[4:8, 4:12] = 200
            writer.add(face)
        columns = {
            "label": ["fear" if index % 4 == 0 else "anger" for index in range(COUNT)],
            "split": ["train"] * COUNT,
            "kept": [True] * COUNT,
            "reason": [""] * COUNT,
            "source": [""] * COUNT,
            "gender": ["Female" if index % 2 else "Male" for index in range(COUNT)],
        }
        return writer.finish(columns, labels=("anger", "fear"), group_columns=("gender",))


def stream(dataset, batches, **kwargs):
    load = pipeline.face_loader(dataset, np.arange(COUNT), augment=kwargs.pop("augment", None))
    made = pipeline.training_stream(load, np.arange(COUNT), batch_size=16, **{"seed": 0, **kwargs})
    return [tuple(part.numpy() for part in batch) for batch in made.take(batches)]


EPOCH = pipeline.steps_per_epoch(COUNT, 16)


def test_an_epoch_holds_each_face_once_with_its_own_target(dataset):
    batches = stream(dataset, EPOCH)
    targets = np.concatenate([batch[1] for batch in batches])
    assert sorted(targets) == list(range(COUNT))
    assert sorted(len(batch[1]) for batch in batches) == [12, 12, 13, 13]  # not 16, 16, 16 and a rest of 2
    for images, ids in batches:
        assert images[:, 0, 0, 0].astype(int).tolist() == ids.tolist()


def test_epochs_differ_and_a_seed_gives_them_again(dataset):
    first, again, other = (stream(dataset, 2 * EPOCH, seed=seed, augment=pipeline.Augmentation()) for seed in (1, 1, 2))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0][1], first[EPOCH][1])
    assert not np.array_equal(first[0][1], other[0][1])


def test_a_stream_that_starts_later_goes_on_as_the_unbroken_one(dataset):
    unbroken = stream(dataset, 3 * EPOCH, augment=pipeline.Augmentation())
    resumed = stream(dataset, EPOCH, augment=pipeline.Augmentation(), start_epoch=2)
    for a, b in zip(unbroken[2 * EPOCH :], resumed, strict=True):
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])


def augmented(image, **changes):
    import tensorflow as tf

    images = tf.constant(np.stack([image] * 64)[..., None], tf.float32)
    augment = pipeline.Augmentation(**{**STILL, **changes})
    return augment(images, tf.constant([3, 4], tf.int64)).numpy()[..., 0]


@pytest.fixture
def image():
    drawn = np.random.default_rng(0).uniform(60, 180, (SIZE, SIZE)).astype(np.float32)
    drawn[2:6, 3:9] = 220
    return drawn


def test_no_strength_changes_nothing(image):
    assert np.allclose(augmented(image), image, atol=1e-3)


def test_flip_gives_the_picture_or_its_mirror_image(image):
    out = augmented(image, flip=True)
    mirrored = [np.allclose(one, image[:, ::-1], atol=1e-2) for one in out]
    plain = [np.allclose(one, image, atol=1e-2) for one in out]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 16 < sum(mirrored) < 48


def test_rotation_stays_within_its_angle():
    """The angle of a bar, found again from its second moments."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    bar = np.where((abs(rows) < 2) & (abs(columns) < 9), 255.0, 0.0).astype(np.float32)
    angles = []
    for one in augmented(bar, rotate_deg=20):
        y, x = (one * rows).sum() / one.sum(), (one * columns).sum() / one.sum()
        xx, yy = (one * (columns - x) ** 2).sum(), (one * (rows - y) ** 2).sum()
        xy = (one * (columns - x) * (rows - y)).sum()
        angles.append(np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)))
    assert max(np.abs(angles)) < 21
    assert max(angles) > 12
    assert min(angles) < -12


def test_shift_moves_by_at_most_its_share(image):
    spot = np.zeros((SIZE, SIZE), np.float32)
    spot[11:13, 11:13] = 255
    rows, columns = np.mgrid[:SIZE, :SIZE]
    moved = [
        ((one * rows).sum() / one.sum() - 11.5, (one * columns).sum() / one.sum() - 11.5) for one in augmented(spot, shift=0.2)
    ]
    assert 3 < np.abs(moved).max() <= 0.2 * SIZE + 0.1


def test_brightness_and_contrast_stay_within_their_bounds(image):
    brighter = augmented(image, brightness=0.1) - image
    unclipped = np.abs(brighter).max(axis=(1, 2))
    assert unclipped.max() <= 25.5 + 1e-3
    ratio = augmented(image, contrast=0.2).std(axis=(1, 2)) / image.std()
    assert 0.79 < ratio.min() < 0.95
    assert 1.05 < ratio.max() < 1.21


def test_erasing_paints_one_square_of_bounded_size_on_some_faces(image):
    changed = np.abs(augmented(image, erase=0.5) - image) > 1e-2
    areas = changed.sum(axis=(1, 2))
    assert (areas == 0).mean() > 0.25
    assert areas.max() <= (SIZE // 2 + 1) ** 2
    whole = areas.argmax()
    rows, columns = np.flatnonzero(changed[whole].any(axis=1)), np.flatnonzero(changed[whole].any(axis=0))
    assert np.ptp(rows) + 1 == len(rows)
    assert areas[whole] >= 0.9 * len(rows) * len(columns)


def test_augmented_pixels_stay_within_0_and_255(image):
    out = augmented(image, brightness=1, contrast=0.9, erase=0.5)
    assert out.min() >= 0
    assert out.max() <= 255


def test_darkness_takes_a_share_of_the_light_from_half_of_the_pictures(image):
    ratios = augmented(image, dark=0.8) / image
    assert np.ptp(ratios, axis=(1, 2)).max() < 1e-4  # the whole picture alike
    left = ratios[:, 0, 0]
    assert 0.2 - 1e-4 <= left.min() < 0.4
    assert 0.3 < (left > 0.999).mean() < 0.7


def test_blur_is_the_gaussian_of_scipy(image):
    from scipy.ndimage import gaussian_filter

    plain = np.full((SIZE, SIZE), 100, np.float32)
    plain[10:14, 10:14] = 200  # far from the border, where a blur must choose what lies outside
    out = augmented(plain, blur=0.05)
    peaks = out.max(axis=(1, 2))
    assert 0.3 < (peaks > 199.9).mean() < 0.7
    sigmas = np.linspace(0.05, 0.05 * SIZE, 200)
    blurred = np.stack([gaussian_filter(plain, sigma, truncate=8) for sigma in sigmas])
    for one in out[peaks < 190]:
        assert np.abs(blurred - one).max(axis=(1, 2)).min() < 1
    assert np.allclose(augmented(np.full((SIZE, SIZE), 100, np.float32), blur=0.5), 100, atol=1e-3)


def test_a_blur_does_not_carry_one_channel_or_face_into_another(image):
    import tensorflow as tf

    faces = np.zeros((64, SIZE, SIZE, 3), np.float32)
    faces[::2, ..., 1] = image
    out = pipeline.Augmentation(**{**STILL, "blur": 0.2})(tf.constant(faces), tf.constant([3, 4], tf.int64)).numpy()
    assert not out[1::2].any()
    assert not out[..., [0, 2]].any()
    assert np.abs(out[::2, ..., 1] - image).max() > 10


def test_noise_is_gaussian_of_at_most_its_strength_on_half_of_the_pictures():
    grey = np.full((SIZE, SIZE), 128, np.float32)
    added = augmented(grey, noise=0.1) - grey
    spread = added.std(axis=(1, 2))
    assert 0.3 < (spread < 1e-3).mean() < 0.7
    assert 15 < spread.max() < 28
    loud = added[spread.argmax()] / spread.max()
    assert abs(loud.mean()) < 0.15
    assert 0.6 < (np.abs(loud) < 1).mean() < 0.76  # 0.683 of a normal distribution
    assert not np.array_equal(loud, added[spread.argsort()[-2]] / np.sort(spread)[-2])


def test_a_poor_camera_leaves_the_other_changes_as_they_are(image):
    import tensorflow as tf

    seed, faces = tf.constant([3, 4], tf.int64), tf.constant(np.stack([image] * 64)[..., None])
    plain = pipeline.Augmentation()(faces, seed).numpy()
    poor = pipeline.Augmentation(dark=0.5)(faces, seed).numpy()
    same = np.isclose(plain, poor, atol=1e-3).all(axis=(1, 2, 3))
    assert 0.3 < same.mean() < 0.7


@pytest.mark.parametrize("bad", [{"zoom": 2}, {"shift": -0.1}, {"rotate_deg": 400}, {"dark": 1.1}, {"blur": -0.1}, {"noise": 2}])
def test_an_impossible_strength_is_refused(bad):
    with pytest.raises(ConfigError, match="must be from 0 to"):
        pipeline.Augmentation(**bad)


def test_faces_read_from_the_memory_map_are_the_cached_ones(dataset, monkeypatch):
    cached = stream(dataset, EPOCH)
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 0)
    streamed = stream(dataset, EPOCH)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(cached, streamed, strict=True))


def test_grey_faces_become_colour_by_repetition(dataset):
    load = pipeline.face_loader(dataset, np.arange(COUNT), channels=3)
    images = next(iter(pipeline.evaluation_batches(load, COUNT, batch_size=8))).numpy()
    assert images.shape == (8, SIZE, SIZE, 3)
    assert np.array_equal(images[..., 0], dataset.faces[:8, ..., 0])
    assert np.array_equal(images[..., 0], images[..., 2])


def test_resampling_draws_the_short_cell_as_often_as_the_long_one(dataset):
    labels = dataset.label_indices
    weights = balanced_weights(cells(dataset, np.arange(COUNT), ["label"]))
    batches = stream(dataset, 20 * EPOCH, sampling=weights)
    drawn = labels[np.concatenate([batch[1] for batch in batches])]
    assert abs(drawn.mean() - 0.5) < 4 * np.sqrt(0.25 / len(drawn))


def test_sample_weights_travel_with_their_faces(dataset):
    weights = np.arange(COUNT, dtype=np.float32) * 2
    for _, ids, given in stream(dataset, EPOCH, weights=weights):
        assert given.tolist() == (2.0 * ids).tolist()


def mixed(mixing, weights=None, seed=3):
    """Pictures of one brightness each, which is ten times their class, and a batch made of them."""
    truth = np.arange(200) % 8
    images = np.repeat(truth * 10.0, 24 * 36).reshape(200, 24, 36, 1).astype(np.float32)
    made = mixing(np.array([seed, 7]), images, np.eye(8, dtype=np.float32)[truth], weights)
    return [part.numpy() for part in made]


@pytest.mark.parametrize("mixing", [pipeline.Mixing(mixup=0.4), pipeline.Mixing(cutmix=1.0)])
def test_targets_are_mixed_in_the_shares_of_the_pictures(mixing):
    images, targets = mixed(mixing)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), targets @ (np.arange(8) * 10), atol=1e-3)
    assert ((targets > 0.01).sum(axis=1) == 2).mean() > 0.4  # most have two different classes
    again, other = mixed(mixing)[0], mixed(mixing, seed=4)[0]
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, other)


def test_mixup_blends_and_cutmix_cuts():
    blended, cut = mixed(pipeline.Mixing(mixup=0.4))[0], mixed(pipeline.Mixing(cutmix=1.0))[0]
    assert (blended.std(axis=(1, 2, 3)) < 1e-3).all()
    assert set(np.unique(cut)) <= set(np.arange(8) * 10.0)
    for index, face in enumerate(cut[:, :, :, 0]):
        odd = face != index % 8 * 10
        assert odd[np.ix_(odd.any(axis=1), odd.any(axis=0))].all()  # one rectangle


def test_shares_of_mixup_follow_their_beta_distribution():
    from scipy.stats import beta, kstest

    truth = np.zeros(2000, int)
    truth[1::2] = 1
    images = np.zeros((2000, 2, 2, 1), np.float32)
    _, targets = pipeline.Mixing(mixup=0.5)(np.array([1, 2]), images, np.eye(2, dtype=np.float32)[truth])
    own = targets.numpy()[np.arange(2000), truth]
    assert kstest(own[own < 1], beta(0.5, 0.5).cdf).pvalue > 1e-3


def test_a_mixed_loss_is_the_sum_of_the_weighted_losses():
    weights = np.linspace(0.5, 2, 200).astype(np.float32)
    _, plain = mixed(pipeline.Mixing(mixup=0.4))
    _, targets, total = mixed(pipeline.Mixing(mixup=0.4), weights)
    truth = np.arange(200) % 8
    two = (plain > 1e-6).sum(axis=1) == 2  # whose partner is of another class
    own = plain[np.arange(200), truth][two]
    # What the partner weighs, from the total: at least as much as the lightest, at most as the heaviest.
    partner = (total[two] - own * weights[two]) / (1 - own)
    assert two.any() and partner.min() > 0.49 and partner.max() < 2.01
    np.testing.assert_allclose(targets[two, truth[two]], own * weights[two] / total[two], rtol=1e-3)


def test_mixing_goes_with_the_stream_and_its_seed(dataset):
    one_hot = np.eye(COUNT, dtype=np.float32)
    load = pipeline.face_loader(dataset, np.arange(COUNT))
    found = []
    for start in (0, 1):
        made = pipeline.training_stream(
            load, one_hot, batch_size=16, seed=0, start_epoch=start, mixing=pipeline.Mixing(mixup=0.4)
        )
        found.append([tuple(part.numpy() for part in batch) for batch in made.take(2 * EPOCH - start * EPOCH)])
    for a, b in zip(found[0][EPOCH:], found[1], strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    images, targets = found[0][0]
    np.testing.assert_allclose(images[:, 0, 0, 0], targets @ np.arange(COUNT), atol=1e-3)


@pytest.mark.parametrize("bad", [{"mixup": -1}, {"cutmix": 11}, {"mixup": 0.2, "cutmix": 1}])
def test_impossible_mixing_is_refused(bad):
    with pytest.raises(ConfigError, match="mixup|cutmix"):
        pipeline.Mixing(**bad)


def test_balanced_weights_give_each_cell_the_same_total():
    weights = balanced_weights(np.array(["a", "a", "a", "b"]))
    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert balanced_weights(np.array(["a", "a", "a", "b"]), power=0).tolist() == [1, 1, 1, 1]


def test_balancing_by_a_column_that_is_not_there_names_those_that_are(dataset):
    assert cells(dataset, np.array([0, 1]), ["label", "gender"]).tolist() == ["fear x Male", "anger x Female"]
    with pytest.raises(ConfigError, match="can't balance by age_group.*label, gender"):
        cells(dataset, np.array([0]), ["age_group"])


def test_cells_whose_names_run_together_stay_apart(dataset):
    groups = {"one": ["fear", "fear x M"], "other": ["M x M", "M"]}
    info = {**dataset.info, "group_columns": list(groups)}
    two = dataclasses.replace(dataset, manifest=dataset.manifest.head(2).assign(**groups), info=info)
    assert cells(two, np.array([0, 1]), ["one", "other"]).tolist() == ['fear x "M x M"', '"fear x M" x M']


def test_no_rows_is_an_error(dataset):
    with pytest.raises(DataError, match="no faces"):
        pipeline.face_loader(dataset, np.array([], np.int64))
