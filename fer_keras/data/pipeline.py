"""FaceDataset -> tf.data. Augmentation lives here only, and is used for training only.

Everything random is a function of (seed, epoch, batch), drawn with TensorFlow's stateless generators, so a run that was
killed and resumed at epoch e sees the very pictures that the unbroken run saw from epoch e on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fer_keras.errors import ConfigError, DataError

if TYPE_CHECKING:
    import tensorflow as tf

    from fer_keras.data.dataset import FaceDataset

#: Up to this many bytes the training faces are held in memory; beyond, they are read from the memory map batch by batch.
CACHE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are varied. Each strength is the largest change, drawn evenly from -strength to +strength.

    flip: mirror left-right half of the time. rotate_deg: degrees. shift: share of the side. zoom: share of the size.
    brightness: share of 255. contrast: share. erase: largest side of an erased square as a share of the side, half the time.
    What poor cameras do, each half of the time and from nothing up to its strength, whichever happen to come together:
    dark: share of the light that is missing. blur: sigma of a Gaussian blur, share of the side. noise: standard deviation of
    Gaussian noise, share of 255.
    """

    flip: bool = True
    rotate_deg: float = 12.0
    shift: float = 0.1
    zoom: float = 0.15
    brightness: float = 0.2
    contrast: float = 0.2
    erase: float = 0.25
    dark: float = 0.0
    blur: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        bounds = {"rotate_deg": 180, "shift": 1, "zoom": 0.9, "brightness": 1, "contrast": 0.95, "erase": 0.9}
        bounds |= {"dark": 1, "blur": 0.5, "noise": 1}
        for name, most in bounds.items():
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name.replace('_deg', '')} must be from 0 to {most}, got {getattr(self, name)}")

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Vary a batch: float32 (n, h, w, c) 0..255 and an int (2,) seed -> float32 (n, h, w, c) 0..255."""
        import tensorflow as tf

        seeds = tf.random.split(seed, 10) if hasattr(tf.random, "split") else tf.random.experimental.stateless_split(seed, 10)
        n, height, width = (tf.shape(images)[axis] for axis in range(3))

        def draw(which: int, low: float = -1.0, shape: tuple = ()) -> tf.Tensor:
            return tf.random.stateless_uniform((n, *shape), seeds[which], low, 1.0)

        images = _moved(
            images,
            mirror=tf.where(draw(1) < 0, -1.0, 1.0) if self.flip else tf.ones(n),
            angle=draw(0) * (self.rotate_deg * np.pi / 180),
            scale=1.0 + draw(2) * self.zoom,
            shift_x=draw(3) * self.shift,
            shift_y=draw(4) * self.shift,
        )
        contrast = 1.0 + draw(5, shape=(1, 1, 1)) * self.contrast
        images = _lit(images, contrast, draw(6, shape=(1, 1, 1)) * (self.brightness * 255))
        images = self._as_seen_by_a_poor_camera(images, seed)
        if self.erase:
            high, wide = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
            side = tf.maximum(draw(7), 0.0) * self.erase  # negative half the time: nothing erased
            corner = draw(8, low=0.0, shape=(2,)) * (1 - side[:, None])
            rows_in = _between(tf.range(high) / high, corner[:, 0], side)
            columns_in = _between(tf.range(wide) / wide, corner[:, 1], side)
            hole = (rows_in[:, :, None] & columns_in[:, None, :])[..., None]
            images = tf.where(hole, draw(9, low=0.0, shape=(1, 1, 1)) * 255, images)
        return tf.clip_by_value(images, 0.0, 255.0)

    def _as_seen_by_a_poor_camera(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Less light, then a blur, then the sensor's noise, where they are asked for."""
        import tensorflow as tf

        def half_the_time(number: int) -> tf.Tensor:
            # Seeds of their own: with these off, the other changes are what they were before there were any.
            return tf.maximum(tf.random.stateless_uniform((tf.shape(images)[0],), fold_in(seed, number), -1.0, 1.0), 0.0)

        if self.dark:
            images *= 1.0 - (half_the_time(0) * self.dark)[:, None, None, None]
        if self.blur:
            images = _blurred(images, half_the_time(1) * self.blur)
        if self.noise:
            spread = (half_the_time(2) * (self.noise * 255))[:, None, None, None]
            images = (
                tf.clip_by_value(images, 0.0, 255.0) + tf.random.stateless_normal(tf.shape(images), fold_in(seed, 3)) * spread
            )
        return images


@dataclass(frozen=True)
class Mixing:
    """Mixes each training picture with another of its batch, and the targets in the same shares, against overfitting.

    mixup: blends two pictures, their shares drawn from Beta(mixup, mixup); Zhang et al. 2018, arXiv:1710.09412. cutmix: puts a
    rectangle of one onto the other, its area drawn from Beta(cutmix, cutmix); Yun et al. 2019, arXiv:1905.04899. 0: not so.
    One of the two, since a picture can't be both.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) <= 10:
                raise ConfigError(f"{name} must be from 0 to 10, got {getattr(self, name)}")
        if self.mixup and self.cutmix:
            raise ConfigError("--mixup and --cutmix mix the same pictures; give one of them")

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def __call__(self, seed: tf.Tensor, images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor | None = None) -> tuple:
        """Mix a batch: float32 (n, h, w, c), targets float32 (n, classes), sample weights float32 (n,) or None.

        Returns (images, targets) or (images, targets, weights). With weights the loss of a mixed picture is the sum of the
        weighted losses of its two, each by its share.
        """
        import tensorflow as tf

        def draw(number: int) -> tf.Tensor:
            # Numbers of their own: the pictures are varied as they are without any mixing.
            return tf.random.stateless_uniform((tf.shape(images)[0],), fold_in(seed, number))

        alpha = self.mixup or self.cutmix
        parts = tf.random.stateless_gamma((2, tf.shape(images)[0]), fold_in(seed, 100), alpha)
        share = tf.math.divide_no_nan(parts[0], tf.reduce_sum(parts, axis=0))
        other = tf.argsort(draw(101), stable=True)
        if self.mixup:
            kept = share[:, None, None, None]
        else:
            side = tf.sqrt(1 - share)
            rows_in, columns_in = (
                _between(
                    (tf.range(tf.cast(length, tf.float32)) + 0.5) / tf.cast(length, tf.float32), draw(number) - side / 2, side
                )
                for number, length in ((102, tf.shape(images)[1]), (103, tf.shape(images)[2]))
            )
            kept = 1.0 - tf.cast(rows_in[:, :, None] & columns_in[:, None, :], tf.float32)[..., None]
            share = tf.reduce_mean(kept, axis=(1, 2, 3))  # of the rectangle, that part counts which lies in the picture
        images = kept * images + (1 - kept) * tf.gather(images, other)
        own = share if weights is None else share * weights
        others = 1 - share if weights is None else (1 - share) * tf.gather(weights, other)
        total = own + others
        targets = tf.math.divide_no_nan(own[:, None] * targets + others[:, None] * tf.gather(targets, other), total[:, None])
        return (images, targets) if weights is None else (images, targets, total)


def alter(images: tf.Tensor, changes: tf.Tensor) -> tf.Tensor:
    """Make new pictures: float32 (n, h, w, c) 0..255 and float32 (n, 6) by balance.CHANGES -> float32, whole numbers 0..255.

    Pictures whose changes are all 0 come out as they are. The result is rounded, so that a picture made while training is
    the one that `training.synthesize` writes down.
    """
    import tensorflow as tf

    mirror, rotate_deg, shift_x, shift_y, brightness, contrast = tf.unstack(changes, axis=1)
    altered = _moved(
        images,
        mirror=tf.where(mirror > 0, -1.0, 1.0),
        angle=rotate_deg * (np.pi / 180),
        scale=tf.ones_like(mirror),
        shift_x=shift_x,
        shift_y=shift_y,
    )
    altered = _lit(altered, 1.0 + contrast[:, None, None, None], brightness[:, None, None, None] * 255)
    altered = tf.round(tf.clip_by_value(altered, 0.0, 255.0))
    return tf.where(tf.reduce_any(changes != 0, axis=1)[:, None, None, None], altered, images)


def _moved(
    images: tf.Tensor, *, mirror: tf.Tensor, angle: tf.Tensor, scale: tf.Tensor, shift_x: tf.Tensor, shift_y: tf.Tensor
) -> tf.Tensor:
    """Mirror (-1, else 1), turn (radians), zoom and shift (shares of the side), each float32 (n,).

    One bilinear resampling for all of it: output pixel (x, y) is read at A (x - centre) + centre + shift.
    """
    import tensorflow as tf

    height, width = tf.shape(images)[1], tf.shape(images)[2]
    high, wide = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    cos, sin = tf.cos(angle) / scale, tf.sin(angle) / scale
    a, b, d, e = mirror * cos, -mirror * sin, sin, cos
    centre_x, centre_y = (wide - 1) / 2, (high - 1) / 2
    c = centre_x - a * centre_x - b * centre_y + shift_x * wide
    f = centre_y - d * centre_x - e * centre_y + shift_y * high
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
        output_shape=tf.stack([height, width]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


def _lit(images: tf.Tensor, contrast: tf.Tensor, brightness: tf.Tensor) -> tf.Tensor:
    """Contrast (a factor about the mean of the picture) and brightness (0..255), each float32 (n, 1, 1, 1)."""
    import tensorflow as tf

    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return (images - mean) * contrast + mean + brightness


def _blurred(images: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Gaussian blur by a sigma for each picture, float32 (n,), share of the side; at the border over the pixels there are.

    Rows and columns are each one product with a matrix of weights: on faces that is faster than a convolution by picture.
    """
    import tensorflow as tf

    def weights(length: tf.Tensor) -> tf.Tensor:
        at = tf.range(tf.cast(length, tf.float32))
        spread = tf.maximum(sigma * tf.cast(length, tf.float32), 1e-3)[:, None, None]
        return tf.nn.softmax(-tf.square(at[:, None] - at) / (2 * tf.square(spread)), axis=-1)

    rows, columns = weights(tf.shape(images)[1]), weights(tf.shape(images)[2])
    return tf.einsum("nij,njkc,nlk->nilc", rows, images, columns)


def _between(positions: tf.Tensor, start: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    return (positions[None] >= start[:, None]) & (positions[None] < (start + length)[:, None])


def fold_in(seed: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """A new stateless seed from a seed and a number. int (2,), scalar -> int (2,)."""
    import tensorflow as tf

    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), tf.cast(number, tf.int64))


def face_loader(
    dataset: FaceDataset,
    rows: np.ndarray,
    *,
    channels: int | None = None,
    augment: Augmentation | None = None,
    changes: np.ndarray | None = None,
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function from positions in `rows` and a seed to pictures.

    Returns load(positions int64 (b,), seed int (2,)) -> float32 (b, h, w, channels), 0..255. channels: 1 or 3; a data set
    of the other kind is converted (grey repeated; colour by ITU-R 601 luma). changes: float32 (len(rows), 6) by
    balance.CHANGES, what is changed in each picture before all else; a row that is given twice is held in memory once.
    """
    import tensorflow as tf

    size, stored = dataset.image_size, dataset.channels
    channels = channels or stored
    rows = np.asarray(rows, np.int64)
    if len(rows) == 0:
        raise DataError(f"{dataset.path} has no faces to load here; check the split and the targets")
    distinct, place = np.unique(rows, return_inverse=True)
    if len(distinct) * size * size * stored <= CACHE_BYTES:
        cached, places = tf.constant(dataset.faces[distinct]), tf.constant(place.reshape(-1), tf.int64)

        def read(positions: tf.Tensor) -> tf.Tensor:
            return tf.gather(cached, tf.gather(places, positions))
    else:
        faces = dataset.faces

        def read(positions: tf.Tensor) -> tf.Tensor:
            batch = tf.numpy_function(lambda index: faces[rows[index]], [positions], tf.uint8, stateful=False)
            return tf.ensure_shape(batch, (None, size, size, stored))

    change_of = None if changes is None else tf.constant(changes, tf.float32)

    def load(positions: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        images = tf.cast(read(positions), tf.float32)
        if change_of is not None:
            images = alter(images, tf.gather(change_of, positions))
        if channels == 3 and stored == 1:
            images = tf.repeat(images, 3, axis=-1)
        elif channels == 1 and stored == 3:
            images = tf.reduce_sum(images * tf.constant([0.299, 0.587, 0.114]), axis=-1, keepdims=True)
        return augment(images, seed) if augment else images

    return load


def feature_loader(features: np.ndarray) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Like face_loader, for stored backbone features: float (views, n, width) -> a random view of each face, by seed."""
    import tensorflow as tf

    stored = tf.constant(features)
    views = features.shape[0]

    def load(positions: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if views == 1:
            return tf.cast(tf.gather(stored[0], positions), tf.float32)
        view = tf.random.stateless_uniform(tf.shape(positions), seed, 0, views, tf.int64)
        return tf.cast(tf.gather_nd(stored, tf.stack([view, positions], axis=1)), tf.float32)

    return load


def training_stream(
    load: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    targets: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    start_epoch: int = 0,
    weights: np.ndarray | None = None,
    sampling: np.ndarray | None = None,
    mixing: Mixing | None = None,
    teach: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    in_memory: bool = False,
) -> tf.data.Dataset:
    """An endless stream of shuffled training batches; epoch after epoch, `steps_per_epoch(n, batch_size)` batches each.

    An epoch's batches are as even as they can be, of batch_size faces or a little less: a last one of what happens to be
    left, a face or two, would move the weights and the statistics of batch normalisation as far as a full one.

    load: from face_loader or feature_loader. targets: (n, classes) float32 or (n,) int. weights: float32 (n,), given to the
    loss. sampling: float (n,), draws n faces an epoch with these chances, with replacement, instead of each face once.
    mixing: mixes pairs of pictures; wants targets (n, classes). teach: (positions, seed, targets of the batch) -> its targets,
    for those that hang on how pictures are varied; before any mixing.
    in_memory: `load` only looks up what is there, as feature_loader's does, and gets no threads of its own.
    Yields (inputs, targets) or (inputs, targets, weights). The same seed gives the same stream from any start_epoch on.
    """
    import tensorflow as tf

    count = len(targets)
    steps = steps_per_epoch(count, batch_size)
    targets_tensor = tf.constant(targets)
    weights_tensor = None if weights is None else tf.constant(weights, tf.float32)
    cumulative = None if sampling is None else tf.constant(np.cumsum(sampling) / np.sum(sampling), tf.float64)
    base = tf.constant([seed, 0x5EED], tf.int64)

    plain = tf.autograph.experimental.do_not_convert  # there is no control flow to convert, and looking for it takes time

    @plain
    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = fold_in(base, number)
        if cumulative is None:
            noise = tf.random.stateless_uniform((count,), epoch_seed, 0, tf.int64.max, tf.int64)
            order = tf.argsort(noise, stable=True)
        else:
            noise = tf.random.stateless_uniform((count,), epoch_seed, dtype=tf.float64)
            order = tf.minimum(tf.searchsorted(cumulative, noise, side="right"), count - 1)
        order = tf.cast(order, tf.int64)
        return tf.data.Dataset.range(steps).map(
            plain(lambda step: (order[step * count // steps : (step + 1) * count // steps], fold_in(epoch_seed, step + 1)))
        )

    @plain
    def batch(positions: tf.Tensor, batch_seed: tf.Tensor) -> tuple:
        batch_targets = tf.gather(targets_tensor, positions)
        if teach:
            batch_targets = teach(positions, batch_seed, batch_targets)
        out = (load(positions, batch_seed), batch_targets)
        out = out if weights_tensor is None else (*out, tf.gather(weights_tensor, positions))
        return mixing(batch_seed, *out) if mixing else out

    stream = tf.data.Dataset.range(start_epoch, np.iinfo(np.int64).max).flat_map(epoch)
    if not in_memory:
        return stream.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
    # Nothing to tune, and whoever lets go of a stream waits up to a second for its tuning to end.
    options = tf.data.Options()
    options.autotune.enabled = False
    return stream.map(batch).prefetch(2).with_options(options)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches that hold every face once."""
    return -(-count // batch_size)


def evaluation_batches(
    load: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], count: int, *, batch_size: int, targets: np.ndarray | None = None
) -> tf.data.Dataset:
    """Each face once, in order: inputs, or (inputs, targets) where targets (n, ...) are given."""
    import tensorflow as tf

    positions = tf.data.Dataset.range(count).batch(batch_size)
    seed = tf.constant([0, 0], tf.int64)
    if targets is None:
        batches = positions.map(lambda at: load(at, seed), num_parallel_calls=tf.data.AUTOTUNE)
    else:
        tensor = tf.constant(targets)
        batches = positions.map(lambda at: (load(at, seed), tf.gather(tensor, at)), num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(2)
