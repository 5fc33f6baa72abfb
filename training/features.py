"""A model with a frozen backbone, and the features that the backbone gave, each computed once.

`fit_one` makes a FeatureStore of its own. A k-fold run makes one for all its folds: they share the backbone, the graph that
runs it, and the features, which lie on disk; each fold then costs a head. What a fold gets is a function of the row, the view
and the seed alone, whatever other rows are asked for, so that it gets the same from a store of its own (up to float32 rounding,
since a network's last bits depend on how faces fall into batches).
"""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.data import pipeline
from fer_keras.data.dataset import FaceDataset
from fer_keras.files import read_json, write_json, writing_whole
from training.backend import arrays_of, can_not_write, choose_strategy, save_weights
from training.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import h5py
    import keras
    import tensorflow as tf

    from fer_keras.models.registry import ModelSpec

BATCH = 128
CALIBRATION_FACES = 512
_INITIAL = "initial.weights.h5"
#: Views of pictures that exist in one training only draw their variations by numbers that no other view has.
_CHANGED = 1000


class FeatureStore:
    """The backbone, what it starts from, and its features of some rows of a data set.

    config, spec: of the training; its precision is no longer "auto". folder: where the initial weights are kept, so that a
    resumed run starts from the same; features too where `keep` is set. rows: int64 (n,) that features are kept of, and of which
    a backbone without pretrained weights takes the statistics of its batch normalisation (from up to 512 pictures, without
    their labels).
    """

    def __init__(
        self, config: TrainConfig, spec: ModelSpec, dataset: FaceDataset, folder: Path, rows: np.ndarray, keep: bool = False
    ) -> None:
        self.config, self.spec, self.dataset, self.folder, self.keep = config, spec, dataset, folder, keep
        self.rows = np.unique(rows) if keep else np.asarray(rows)
        self.augment = config.augmentation()
        self.views = 1 + (config.feature_views if self.augment else 0)
        self.strategy = choose_strategy()
        self._initial: list[np.ndarray] = []
        self._compiled: Any = None
        self._new_optimizer: list[np.ndarray] = []

    @cached_property
    def model(self) -> keras.Model:
        """The whole model; `start` gives it the weights that a training starts from."""
        with self.strategy.scope():
            return self.spec.build(seed=self.config.seed, precision=self.config.precision)

    def start(self) -> str:
        """Give the model its initial weights, freeze the backbone, and say where its weights come from.

        Pretrained ones, or random ones with statistics of `rows`; the first call puts them on disk. Later calls undo whatever
        a training did, so that each starts alike. Raises ModelError where the weights can't be had.
        """
        from fer_keras.models import densenet

        weights, origin = self.folder / _INITIAL, self.folder / "initial.json"
        backbone, head = self.model.get_layer("backbone"), self.model.get_layer("head")
        if self._initial:
            if backbone.trainable:  # it was fine-tuned
                self.model.set_weights(self._initial)
            else:
                head.set_weights(self._initial[-len(head.weights) :])
        else:
            if weights.is_file() and origin.is_file():
                self.model.load_weights(weights)
            else:
                self.folder.mkdir(parents=True, exist_ok=True)
                loaded = densenet.load_backbone_weights(self.model, self.config.weights, Path(self.config.saved_models))
                if not loaded.pretrained:
                    self._calibrate()
                write_json(origin, {"backbone": str(loaded)})
                save_weights(self.model, weights)
            self._initial = self.model.get_weights()
        densenet.freeze_backbone(self.model)
        return read_json(origin)["backbone"]

    def _calibrate(self) -> None:
        from fer_keras.models import densenet

        load = pipeline.face_loader(self.dataset, self.rows, channels=self.spec.channels)
        chosen = np.random.default_rng(self.config.seed).permutation(len(self.rows))[:CALIBRATION_FACES]
        import tensorflow as tf

        seed = tf.constant([0, 0], tf.int64)
        parts = np.array_split(chosen, max(1, len(chosen) // 64))
        densenet.calibrate_batch_norm(self.model, [np.asarray(load(tf.constant(part), seed)) for part in parts])

    def keep_compiled(self, key: Any) -> None:
        """Remember what the head was just compiled for, and how its optimizer is when new."""
        self._compiled = key
        self._new_optimizer = arrays_of(self.model.get_layer("head").optimizer.variables)

    def renew_optimizer(self, key: Any) -> bool:
        """Whether the head is compiled for this already; its optimizer is then as new. Tracing a graph takes 1 to 2 seconds."""
        if self._compiled != key:
            return False
        optimizer = self.model.get_layer("head").optimizer
        for variable, value in zip(optimizer.variables, self._new_optimizer, strict=True):
            variable.assign(value)
        return True

    def save_model(self, path: Path) -> None:
        """Write the weights of the whole model, as `save_weights` does.

        While the backbone is frozen the file is the initial one with another head: Keras takes over a second for 600 arrays.
        """
        if self.model.get_layer("backbone").trainable or not self._head_in_file:
            save_weights(self.model, path)
            return
        import h5py

        part = path.with_name(f"part-{path.name}")
        try:
            shutil.copyfile(self.folder / _INITIAL, part)
            with h5py.File(part, "r+") as file:
                for name, values in zip(self._head_in_file, self.model.get_layer("head").get_weights(), strict=True):
                    file[name][...] = values
            part.replace(path)
        except OSError as error:
            raise can_not_write(path, error) from error
        finally:
            part.unlink(missing_ok=True)

    def load_head(self, path: Path) -> None:
        """Give the head its weights from a file of the whole model."""
        if not self._head_in_file:
            self.model.load_weights(path)
            return
        import h5py

        with h5py.File(path, "r") as file:
            self.model.get_layer("head").set_weights([file[name][...] for name in self._head_in_file])

    @cached_property
    def _head_in_file(self) -> list[str]:
        """Where each of the head's weights stands in a file of the whole model; empty where that is not plain to see.

        Found by marking them, since Keras names the parts of a model by their class, and could change its ways.
        """
        import h5py

        head = self.model.get_layer("head")
        values = head.get_weights()
        with tempfile.TemporaryDirectory() as folder, h5py.File(self.folder / _INITIAL, "r") as whole:
            path = Path(folder) / "head.weights.h5"
            try:
                head.set_weights([np.full_like(value, number) for number, value in enumerate(values)])
                head.save_weights(path)
            finally:
                head.set_weights(values)
            with h5py.File(path, "r") as file:
                names = sorted(_arrays(file), key=lambda name: file[name][...].flat[0])
            groups: list[str] = []
            whole.visit(groups.append)

            def fits(group: str) -> bool:
                found = [whole.get(f"{group}/{name}") for name in names]
                return [getattr(array, "shape", None) for array in found] == [value.shape for value in values]

            fitting = [group for group in groups if fits(group)]
        return [f"{fitting[0]}/{name}" for name in names] if len(fitting) == 1 else []

    def features(self, rows: np.ndarray, view: int = 0, changes: np.ndarray | None = None) -> np.ndarray:
        """Features float32 (len(rows), width) of one view of some faces; `start` comes first.

        view: 0 is the plain picture, 1 to views-1 are varied ones. changes: float32 (len(rows), 6) by balance.CHANGES: rows that
        are made into new pictures, whose features are computed here and not kept.
        """
        rows = np.asarray(rows, np.int64)
        if changes is None or not changes.any():
            return self._of_rows(rows, view)
        made = changes.any(axis=1)
        found = np.empty((len(rows), self.model.get_layer("backbone").output_shape[-1]), np.float32)
        if not made.all():
            found[~made] = self._of_rows(rows[~made], view)
        found[made] = self._of_new_pictures(rows[made], view, changes[made])
        return found

    def compute_all(self) -> None:
        """Compute and keep every view of `rows` that is not on disk yet. Killed in between, finished views stay."""
        if not (self.folder / "rows.npy").is_file():
            _save(self.folder / "rows.npy", self.rows)
        for view in range(self.views):
            if not self._file(view).is_file():
                _save(self._file(view), self._compute(self.rows, view))

    def _file(self, view: int) -> Path:
        return self.folder / f"view-{view}.npy"

    def _of_rows(self, rows: np.ndarray, view: int) -> np.ndarray:
        if not self.keep:
            unique, place = np.unique(rows, return_inverse=True)
            return self._compute(unique, view)[place.reshape(-1)]
        self.compute_all()
        place = np.searchsorted(self.rows, rows)
        return np.load(self._file(view), mmap_mode="r")[place]

    def _compute(self, rows: np.ndarray, view: int) -> np.ndarray:
        """Features of ascending rows. Rows i to i+127 vary together, so that a row's variation is its own in every training."""
        import tensorflow as tf

        augment = self.augment if view else None
        count = len(self.dataset.manifest)
        load = pipeline.face_loader(self.dataset, np.arange(count), channels=self.spec.channels)
        seed = tf.constant([self.config.seed, view], tf.int64)
        blocks = np.split(rows, np.flatnonzero(np.diff(rows // BATCH)) + 1)
        run = self._run

        def of_block(inside: np.ndarray) -> np.ndarray:
            if augment:
                first = inside[0] // BATCH * BATCH
                block = load(tf.range(first, min(first + BATCH, count), dtype=tf.int64), seed)
                pixels = tf.gather(augment(block, pipeline.fold_in(seed, first)), inside - first)
            else:
                pixels = load(tf.constant(inside), seed)
            return run(pixels).numpy()

        return _two_at_a_time(of_block, blocks, f"features of view {view}")

    def _of_new_pictures(self, rows: np.ndarray, view: int, changes: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        augment = self.augment if view else None
        load = pipeline.face_loader(self.dataset, rows, channels=self.spec.channels, augment=augment, changes=changes)
        seed = tf.constant([self.config.seed, _CHANGED + view], tf.int64)
        run = self._run

        def of_block(start: int) -> np.ndarray:
            positions = tf.range(start, min(start + BATCH, len(rows)), dtype=tf.int64)
            return run(load(positions, pipeline.fold_in(seed, start))).numpy()

        return _two_at_a_time(of_block, range(0, len(rows), BATCH), f"features of new pictures, view {view}")

    @cached_property
    def _run(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Pixels float32 (n, h, w, c) -> features float32 (n, width), traced once for all splits, views and folds."""
        import tensorflow as tf

        backbone = self.model.get_layer("backbone")
        shape = (None, *self.model.input_shape[1:])

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
        def run(pixels: tf.Tensor) -> tf.Tensor:
            return tf.cast(backbone(pixels, training=False), tf.float32)

        return run


def _two_at_a_time(of_block: Callable[[Any], np.ndarray], blocks: Sequence[Any], what: str) -> np.ndarray:
    """What each block gives, in order, as one array; a bar on the terminal shows how far it is.

    Late in the backbone the maps are of a few pixels, too small to split over cores; a second batch fills them (1.1 to 1.2 times
    as many faces a second on two cores).
    """
    from tqdm import tqdm

    with ThreadPoolExecutor(2) as threads:
        try:
            found = threads.map(of_block, blocks)
            return np.concatenate(list(tqdm(found, what, len(blocks), leave=False, unit="batch", disable=None)))
        except BaseException:
            threads.shutdown(cancel_futures=True)  # Ctrl-C waits for two blocks, not for all
            raise


def _arrays(file: h5py.File) -> list[str]:
    """Names of the weights in a Keras file, an optimizer's left out."""
    import h5py

    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return [name for name in found if not name.startswith("optimizer")]


def _save(path: Path, values: np.ndarray) -> None:
    with writing_whole(path) as file:
        np.save(file, values)
