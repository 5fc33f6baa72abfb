"""The only training loop. Everything that trains calls `fit_one`: train, k-fold, mitigation, robustness, ensembles.

What is trained, phase after phase:

    cnn, resnet   one phase, the whole network
    densenet      "frozen": the head alone, on features that the backbone gave once; then "finetune": the last blocks too
                  with --frozen-epochs 0: "scratch", the whole network, its batch normalisation too

After each epoch the weights, the optimizer and the history are on disk, and everything random is a function of (seed,
epoch), so that a killed run goes on with the result of an unbroken one: bit for bit on as many cores, else but for rounding,
which grows (docs/decisions/0003).
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.data import pipeline
from fer_keras.data.balance import NO_CELL, CellPlan, augmented_cells, balanced_weights, cells, levelled_cells
from fer_keras.data.dataset import FaceSubset
from fer_keras.data.targets import training_targets
from fer_keras.errors import TrainingError, WriteError
from fer_keras.files import alone, read_json, remove_whole, write_json, writing_whole
from fer_keras.models import transfer
from fer_keras.models.finding import find_model
from training.backend import choose_strategy, copy_weights, load_state, save_state, save_weights
from training.config import TrainConfig
from training.distillation import taught, teacher_of_views
from training.features import FeatureStore
from training.run_folder import RunFolder

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

EVALUATION_BATCH = 128


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    best_epoch: counted from 1 over all phases. interrupted: Ctrl-C came, and who trains more stops too; where the last epoch was
    over by then the run is finished all the same. seconds: of each phase, of all sessions.
    """

    epochs: int
    best_epoch: int
    best_val_loss: float
    interrupted: bool
    seconds: dict[str, float]


@dataclass
class _Phase:
    name: str
    epochs: int
    lr: float
    patience: int


@dataclass
class _State:
    """What `--resume` needs, as state/state.json; weights lie beside it under names that the file gives."""

    phase: int = 0
    phase_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    net: str | None = None
    best_net: str | None = None
    best: dict[str, float] | None = None
    phase_best: dict[str, float] | None = None
    waited: int = 0
    dro: list[float] | None = None  # weights of the cells
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> _State | None:
        path = folder / "state.json"
        return cls(**read_json(path)) if path.is_file() else None

    def save(self, folder: Path) -> None:
        write_json(folder / "state.json", vars(self))


def fit_one(
    config: TrainConfig, train: FaceSubset, validation: FaceSubset, run: RunFolder, features: FeatureStore | None = None
) -> FitResult:
    """Train one model from `train`, watching `validation`, into `run`; goes on where an earlier call was killed.

    config: resolved settings; for the precision the run's own counts. The run folder gets best.weights.h5, final.weights.h5,
    history.csv and metrics.json; best is the epoch of lowest validation loss after epoch `best_after` (of two phases each gives
    its own, and that of lower loss counts: a frozen phase may end before `best_after`), final the last one. Test rows are never
    seen here.
    features: backbone and features that trainings of the same settings and data share, such as the folds of a k-fold run;
    for an architecture with a backbone. Each training starts from the same weights all the same.
    A run that is finished, by now or before, stays as it is. Raises TrainingError where nothing is left to train on or the loss
    is no longer a number; ConfigError where another process is training this run; WriteError where the disk is full, which
    loses no epoch that was over; KeyboardInterrupt where Ctrl-C came before the first epoch was over, between phases, or twice.
    """
    with alone(run.lock_path, f"{run.path} is being trained by another process; wait for its end"):
        if run.finished:  # another process may have come to its end since the caller looked
            known = run.metrics
            return FitResult(known["epochs"], known["best_epoch"], known["best_val_loss"], False, known["seconds"])
        try:
            return _Training(config, train, validation, run, features).fit()
        except WriteError as error:
            if not (run.state_path / "state.json").is_file():
                raise
            raise WriteError(f"{error}; what was trained is kept and can be gone on with") from error


class _Training:
    """One call of fit_one: what its steps share."""

    def __init__(
        self,
        config: TrainConfig,
        train: FaceSubset,
        validation: FaceSubset,
        run: RunFolder,
        features: FeatureStore | None = None,
    ) -> None:
        import keras

        config = dataclasses.replace(config, precision=run.precision)
        self.config, self.run, self.log = config, run, run.logger()
        self.dataset = train.dataset
        self.folder = run.state_path
        self.folder.mkdir(exist_ok=True)
        self.state = _State.load(self.folder) or _State()
        self.train_rows, self.train_targets = self._targets(train, "train")
        if config.teacher and config.teacher_asked != "views":
            self.train_targets = taught(config, self.dataset, self.train_rows, self.train_targets, self.folder)
        self.cell_of, self.changes = self._balance_rows()
        self.validation_rows, self.validation_targets = self._targets(validation, "validation")
        self.channels = run.spec.channels
        self.augment = config.augmentation()
        keras.utils.set_random_seed(config.seed)
        if config.two_phases:
            self.features = features or FeatureStore(config, run.spec, self.dataset, self.folder, self.train_rows)
            self.strategy, self.model = self.features.strategy, self.features.model
        else:
            self.strategy = choose_strategy()
            with self.strategy.scope():
                self.model = run.spec.build(seed=config.seed, precision=config.precision)
            if config.weights not in ("auto", "none") and not self.state.net:
                path = find_model(config.weights, config.saved_models)
                self.log.info("%s", transfer.load_exported_weights(self.model, self.dataset.labels, path))

    def _targets(self, subset: FaceSubset, what: str) -> tuple[np.ndarray, np.ndarray]:
        rows, targets = training_targets(subset.dataset, subset.rows, self.config.targets)
        if len(rows) == 0:
            raise TrainingError(
                f"no {what} faces are left with --targets {self.config.targets}; check the data set {subset.dataset.path}"
            )
        if self.config.encoding == "sparse":
            targets = targets.argmax(axis=1).astype(np.int64)
        return rows, targets

    def _balance_rows(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(cells, changes) of the training faces; augment and mean-flip also repeat rows, changed, or leave some out."""
        config = self.config
        if not config.balance:
            return None, None
        cell_of = cells(self.dataset, self.train_rows, config.balance)
        plan: CellPlan | None = None
        if config.balance_by == "augment":
            plan = augmented_cells(
                cell_of,
                config.new_pictures(),
                target=config.balance_target,
                power=config.balance_power,
                seed=config.seed,
            )
        elif config.balance_by == "mean-flip":
            plan = levelled_cells(cell_of, power=config.balance_power, seed=config.seed)
        if plan is None:
            return cell_of, None
        self.log.info(
            "Balanced by %s: %d faces became %d, %d of them new pictures",
            ", ".join(config.balance),
            len(cell_of),
            len(plan.positions),
            plan.made.sum(),
        )
        self.train_rows, self.train_targets = self.train_rows[plan.positions], self.train_targets[plan.positions]
        return cell_of[plan.positions], plan.changes

    def _weights(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(sample weights, sampling chances) of the training faces; for DRO the number of the cell is in place of a weight."""
        how, power = self.config.balance_by, self.config.balance_power
        if self.cell_of is None or self.changes is not None:
            return None, None
        weights = balanced_weights(self.cell_of, power)
        if how == "dro":
            names = self._cell_names()
            number = np.where(self.cell_of == NO_CELL, -1, np.searchsorted(names, self.cell_of))
            return number.astype(np.float32), weights
        return (weights, None) if how == "weight" else (None, weights)

    def _cell_names(self) -> np.ndarray:
        names = np.unique(self.cell_of)
        return names[names != NO_CELL]

    def _train_faces(self, augment: pipeline.Augmentation | None = None) -> Callable:
        """The loader of the training faces."""
        return pipeline.face_loader(self.dataset, self.train_rows, channels=self.channels, augment=augment, changes=self.changes)

    def _teach(self) -> Callable | None:
        """What mixes targets with the teacher's answers to varied pictures, where it is asked about those."""
        if self.config.teacher_asked != "views":
            return None
        return teacher_of_views(self.config, self.dataset, self.train_rows, self.changes)

    def phases(self) -> list[_Phase]:
        config = self.config
        if not config.two_phases:
            return [_Phase("train", config.epochs, config.lr, config.patience)]
        if not config.frozen_epochs:
            return [_Phase("scratch", config.finetune_epochs, config.lr, config.patience)]
        phases = [_Phase("frozen", config.frozen_epochs, config.lr, config.patience or 5)]
        if config.finetune_epochs:
            phases.append(_Phase("finetune", config.finetune_epochs, config.finetune_lr, config.patience))
        return phases

    def fit(self) -> FitResult:
        state, phases, stopped, interrupted = self.state, self.phases(), False, False
        if state.history:
            write_history(self.run.path / "history.csv", state.history)  # a kill may have come just before it was
        if self.config.two_phases:
            self._start_backbone()
        for index in range(state.phase, len(phases)):
            last = index == len(phases) - 1
            stopped = self._fit_phase(phases[index])
            interrupted = stopped and not (last and self._is_over(phases[index]))
            if interrupted:
                break
            self._end_phase(last)
        if interrupted:
            if not state.history:
                raise KeyboardInterrupt
            self._end_phase(last=True, keep_state=True)
            self.log.info("Stopped by Ctrl-C after epoch %d", len(state.history))
        best = state.best
        result = FitResult(len(state.history), int(best["epoch"]), best["val_loss"], stopped, state.seconds)
        self.run.update_metrics(
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            best_val_loss=result.best_val_loss,
            interrupted=interrupted,
            seconds=state.seconds,
            precision=_precision(self.model),
            n_train=len(self.train_rows),
            n_validation=len(self.validation_rows),
            **self._balance_record(),
        )
        if not interrupted:
            remove_whole(self.folder)  # half of it could not be gone on with
        return result

    def _balance_record(self) -> dict[str, Any]:
        """For metrics.json: how many faces each cell was trained with, and the weight that DRO gave it at last."""
        if self.cell_of is None:
            return {}
        counts = {str(name): int((self.cell_of == name).sum()) for name in self._cell_names()}
        record: dict[str, Any] = {"cells": counts}
        if self.state.dro:
            record["dro_weights"] = dict(zip(counts, self.state.dro, strict=True))
        return record

    # One phase

    def _is_over(self, phase: _Phase) -> bool:
        """Whether the phase that is being trained has had its last epoch."""
        state = self.state
        return state.phase_epoch >= phase.epochs or bool(phase.patience and state.waited >= phase.patience)

    def _fit_phase(self, phase: _Phase) -> bool:
        """Train one phase to its end, or until Ctrl-C comes, and return whether it came.

        What goes before and after the epochs, such as features that take many minutes, Ctrl-C ends at once: what is on disk is
        whole at any time.
        """
        import keras

        state, config = self.state, self.config
        started = time.monotonic()
        count = len(self.train_rows)
        batch_size = self._frozen_batch_size() if phase.name == "frozen" else config.batch_size
        steps = pipeline.steps_per_epoch(count, batch_size)
        net, train_load, validation_load = self._inputs(phase, steps)
        weights, sampling = self._weights()
        # Each phase shuffles and augments by its own seed, and dropout follows (seed, epoch).
        stream = pipeline.training_stream(
            train_load,
            self.train_targets,
            batch_size=batch_size,
            seed=config.seed * 10 + state.phase,
            start_epoch=state.phase_epoch,
            weights=weights,
            sampling=sampling,
            mixing=None if net.name == "head" else config.mixing(),  # stored features are no pictures
            teach=self._teach(),
            in_memory=net.name == "head",
        )
        validation = pipeline.evaluation_batches(
            validation_load, len(self.validation_rows), batch_size=EVALUATION_BATCH, targets=self.validation_targets
        )
        if net.name == "head":
            # Stored features are in memory already; opening a pipeline anew each epoch would cost more than scoring them.
            validation = _one_batch(validation)
        self.net = net
        self._compile(net, phase, steps)
        if state.net:
            load_state(net, self.folder / state.net)
            self._restore_dro()
        if self._is_over(phase):
            return False  # killed between the last epoch and the end of the phase
        with _ctrl_c() as stop:
            self.log.info(
                "Phase %s: %d faces, %d to validate, up to %d epochs of %d batches, %s trainable weights, %s",
                phase.name,
                count,
                len(self.validation_rows),
                phase.epochs,
                steps,
                f"{sum(int(np.prod(v.shape)) for v in net.trainable_variables):,}",
                _precision(net),
            )
            before = state.seconds.get(phase.name, 0.0)
            began = self.model.get_weights() if state.phase else []
            recorder = _make_recorder(self, net, phase, stop, lambda: before + time.monotonic() - started)
            callbacks: list[keras.callbacks.Callback] = [recorder]
            if config.tensorboard:
                callbacks.append(keras.callbacks.TensorBoard(str(self.run.path / "tensorboard" / phase.name), write_graph=False))
            try:
                net.fit(
                    stream,
                    steps_per_epoch=steps,
                    initial_epoch=state.phase_epoch,
                    epochs=phase.epochs,
                    validation_data=validation,
                    callbacks=callbacks,
                    shuffle=False,  # the stream is shuffled already
                    verbose=0,
                )
            except _StoppedByUserError:
                # The epoch that was cut short counts for nothing.
                if state.net:
                    load_state(net, self.folder / state.net)
                elif state.phase:
                    self.model.set_weights(began)  # loading a file, Keras warns of an optimizer that it lacks
        return stop.is_set()

    def _frozen_batch_size(self) -> int:
        """As set; else large, since small ones mostly cost their calling, but with some steps in an epoch of few faces."""
        return self.config.frozen_batch_size or min(256, max(16, len(self.train_rows) // 6))

    def _compile(self, net: keras.Model, phase: _Phase, steps: int) -> None:
        """A new optimizer and loss; or the old ones as they were when new, where the graph of an earlier fold fits."""
        import keras

        config, at_once = self.config, self._steps_at_once(phase, steps)
        self.loss = self._loss()
        key = (*dataclasses.astuple(phase), steps, at_once, config.to_dict() | {"out": None, "export": None})
        shared = config.two_phases and net is self.model.get_layer("head") and config.balance_by != "dro"
        if shared and self.features.renew_optimizer(key):
            return
        with self.strategy.scope():
            optimizer = make_optimizer(config, phase.lr, steps * phase.epochs)
            if _precision(net) == "mixed_float16":
                # Keras does so itself by the model's own policy, which is float32 where it was put together from others.
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
            net.compile(
                optimizer=optimizer,
                loss=self.loss,
                metrics=["accuracy"],
                # XLA was measured slower than the plain graph on CPUs, and compiles for minutes
                jit_compile=False,
                steps_per_execution=at_once,
            )
            net.optimizer.build(net.trainable_variables)
        if self.strategy.num_replicas_in_sync == 1:
            # Metrics too have variables. Made by the first step of `fit` they would have it traced twice, which for a DenseNet
            # takes longer than many an epoch. (With several replicas Keras makes them itself.)
            like = self.train_targets[:1]
            net.compute_metrics(None, like, np.zeros((1, net.output_shape[-1]), np.float32))
            net.reset_metrics()
        if shared:
            self.features.keep_compiled(key)

    def _save_whole(self, name: str) -> None:
        """Weights of the whole model into the run folder."""
        if self.config.two_phases:
            self.features.save_model(self.run.path / name)
        else:
            save_weights(self.model, self.run.path / name)

    def _steps_at_once(self, phase: _Phase, steps: int) -> int:
        """How many steps one call of the graph makes: several where a step is the head's alone, shorter than its calling.

        A divisor of the steps of an epoch, since Keras makes whole calls only and would run over its end.
        """
        if phase.name != "frozen" or self.config.frozen_features == "live" or self.strategy.num_replicas_in_sync > 1:
            return 1
        return max(number for number in range(1, 65) if steps % number == 0)

    def _loss(self) -> keras.losses.Loss:
        import keras

        if self.config.encoding == "sparse":
            loss = keras.losses.SparseCategoricalCrossentropy()
        else:
            loss = keras.losses.CategoricalCrossentropy(label_smoothing=self.config.label_smoothing)
        if self.cell_of is None or self.config.balance_by != "dro":
            return loss
        from training.dro import group_dro

        with self.strategy.scope():  # it has a variable
            return group_dro(loss, len(self._cell_names()), self.config.dro_step)

    def _restore_dro(self) -> None:
        if self.state.dro:
            self.loss.weights.assign(np.array(self.state.dro, np.float32))

    def dro_weights(self) -> list[float] | None:
        """Weights of the cells as they are now; float32 survives JSON unchanged."""
        weights = getattr(self.loss, "weights", None)
        return None if weights is None else np.asarray(weights).tolist()

    def _inputs(self, phase: _Phase, steps: int) -> tuple[keras.Model, Callable, Callable]:
        """What is trained in a phase, and the loaders of its inputs. steps: of an epoch."""
        config = self.config
        loader = pipeline.face_loader
        validation = loader(self.dataset, self.validation_rows, channels=self.channels)
        if phase.name == "scratch":
            net = self._with_live_batch_norm(phase.epochs * steps)
            return net, self._train_faces(self.augment), validation
        if phase.name == "frozen" and config.frozen_features == "cached":
            started = time.monotonic()
            given = self.features.features
            views = [given(self.train_rows, view, self.changes) for view in range(self.features.views)]
            train_load = pipeline.feature_loader(np.stack(views))
            validation_load = pipeline.feature_loader(given(self.validation_rows)[None])
            self.log.info(
                "Features of the frozen backbone for %d faces x %d views and %d to validate: %.1f s",
                len(self.train_rows),
                len(views),
                len(self.validation_rows),
                time.monotonic() - started,
            )
            return self.model.get_layer("head"), train_load, validation_load
        return self.model, self._train_faces(self.augment), validation

    def _with_live_batch_norm(self, steps: int) -> keras.Model:
        """The same layers and weights, with the backbone called so that its batch normalisation follows the batches.

        steps: of the whole phase.
        """
        import keras

        from fer_keras.models import densenet

        backbone, head = self.model.get_layer("backbone"), self.model.get_layer("head")
        with self.strategy.scope():
            densenet.unfreeze_all(self.model, steps)
            pixels = keras.Input(self.model.input_shape[1:], name="pixels")
            return keras.Model(pixels, head(backbone(pixels)))

    # Between phases

    def _start_backbone(self) -> None:
        """Backbone weights, from wherever they come, and which of them this phase trains."""
        from fer_keras.models import densenet

        origin = self.features.start()
        if self.run.metrics.get("backbone") != origin:
            if not self.features.keep:  # who shares it has said so once
                self.log.info("%s", origin)
            self.run.update_metrics(backbone=origin)
        if self.state.phase:
            self.model.load_weights(self.folder / "phase.weights.h5")
            densenet.unfreeze_last_blocks(self.model, self.config.unfreeze_blocks)

    def _end_phase(self, last: bool, keep_state: bool = False) -> None:
        """Final and best weights of the whole model; the next phase starts from the best of this one."""
        state, model, path = self.state, self.model, self.run.path
        if last:
            self._save_whole("final.weights.h5")
        name = state.best_net or state.net
        if name and state.net:
            load_state(self.net, self.folder / name)
        better = state.best is None or (state.phase_best and state.phase_best["val_loss"] < state.best["val_loss"])
        best, kept = path / "best.weights.h5", self.folder / "best.weights.h5"
        if not better and kept.is_file():
            copy_weights(kept, best)  # Ctrl-C may have put weights of this phase there, of an epoch that no longer counts
        elif better or not best.is_file():
            if better:
                state.best = state.phase_best
            self._save_whole(best.name)
        if keep_state:
            return
        if not last:
            from fer_keras.models import densenet

            copy_weights(best, kept)
            save_weights(model, self.folder / "phase.weights.h5")
            densenet.unfreeze_last_blocks(model, self.config.unfreeze_blocks)
            state.phase += 1
            state.phase_epoch, state.net, state.best_net, state.phase_best, state.waited = 0, None, None, None, 0
            state.dro = None  # each phase begins with equal weights of the cells
            state.save(self.folder)


def _one_batch(batches: tf.data.Dataset) -> tf.data.Dataset:
    """All batches as one, made now."""
    import tensorflow as tf

    parts = zip(*batches, strict=True)
    return tf.data.Dataset.from_tensors(tuple(tf.concat(part, axis=0) for part in parts))


class _StoppedByUserError(Exception):
    """Ctrl-C while a phase was being trained."""


def make_optimizer(config: TrainConfig, lr: float, steps: int) -> keras.Optimizer:
    """The optimizer with its learning rate over `steps` steps: a linear warm-up to `lr`, then a cosine down to lr/100."""
    import keras

    warmup = int(steps * config.warmup)
    rate: Any = lr
    if config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            lr / 25, decay_steps=max(1, steps - warmup), alpha=0.01, warmup_target=lr, warmup_steps=warmup
        )
        if not warmup:
            rate = keras.optimizers.schedules.CosineDecay(lr, decay_steps=max(1, steps), alpha=0.01)
    elif warmup:
        schedules = keras.optimizers.schedules
        rate = schedules.CosineDecay(lr / 25, decay_steps=10**9, alpha=1.0, warmup_target=lr, warmup_steps=warmup)
    if config.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate)
    return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)


def reseed_dropout(net: keras.Model, seed: int, epoch: int) -> None:
    """Set the state of every random layer to a function of (seed, epoch): it is no part of saved weights."""
    import keras

    states = [v for v in net.variables if v.path.endswith("seed_generator_state")]
    for number, variable in enumerate(states):
        words = np.random.SeedSequence([seed, epoch, number]).generate_state(2)
        variable.assign(keras.ops.cast(words % 2**31, variable.dtype))


def _precision(net: keras.Model) -> str:
    """The policy that a model computes by. Its own is always float32, since its layers were made one by one."""
    return next((layer.dtype_policy.name for layer in net._flatten_layers() if layer.dtype_policy.name != "float32"), "float32")


def _make_recorder(
    training: _Training, net: keras.Model, phase: _Phase, stop: threading.Event, seconds: Callable[[], float]
) -> keras.callbacks.Callback:
    """The callback that keeps what an epoch gave. Made in a function because its base class is Keras's."""
    import keras
    from tqdm import tqdm

    state, config, run, log = training.state, training.config, training.run, training.log

    class Recorder(keras.callbacks.Callback):
        """Best and last weights, history, progress, early stopping.

        Keras's own BackupAndRestore, EarlyStopping and ModelCheckpoint forget their counters when a run is resumed, so
        that it would not end as the unbroken one; here they are part of the saved state.
        """

        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            reseed_dropout(net, config.seed * 10 + state.phase, epoch)
            title = f"{phase.name} {epoch + 1}/{phase.epochs}"
            self.bar = tqdm(total=self.params["steps"], desc=title, unit="batch", leave=False, disable=None)

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            self.bar.update(batch + 1 - self.bar.n)
            if not math.isfinite(logs["loss"]):
                self.bar.close()
                where = f"in epoch {len(state.history) + 1}, batch {batch + 1}"
                other = "" if _precision(net) == "float32" else ", or train with --precision float32"
                raise TrainingError(f"the loss became {logs['loss']} {where}; lower the learning rate (now {phase.lr:g}){other}")
            if not self.bar.disable:
                self.bar.set_postfix(loss=f"{logs['loss']:.3f}", accuracy=f"{logs['accuracy']:.3f}")
            if stop.is_set():
                self.bar.close()
                raise _StoppedByUserError

        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            self.bar.close()
            number = len(state.history) + 1
            if not math.isfinite(logs["val_loss"]):
                raise TrainingError(
                    f"the validation loss became {logs['val_loss']} in epoch {number}; lower the learning rate (now {phase.lr:g})"
                )
            before = state.seconds.get(phase.name, 0.0)
            state.seconds[phase.name] = round(seconds(), 2)
            entry = {
                "epoch": number,
                "phase": phase.name,
                **{key: float(logs[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")},
                "learning_rate": float(net.optimizer.learning_rate),
                "seconds": round(state.seconds[phase.name] - before, 2),
            }
            state.history.append(entry)
            log.info(
                "%s %d/%d  loss %.4f  accuracy %.3f  validation: loss %.4f  accuracy %.3f  (%.0f s)",
                phase.name,
                epoch + 1,
                phase.epochs,
                entry["loss"],
                entry["accuracy"],
                entry["val_loss"],
                entry["val_accuracy"],
                entry["seconds"],
            )
            self._keep(epoch, number, entry["val_loss"])
            if phase.patience and state.waited >= phase.patience:
                log.info("No better validation loss for %d epochs: the phase ends", phase.patience)
                self.model.stop_training = True
            if stop.is_set():
                raise _StoppedByUserError

        def _keep(self, epoch: int, number: int, val_loss: float) -> None:
            """Weights first, then the file that names them: killed in between, the epoch before still stands."""
            old = {state.net, state.best_net}
            state.phase_epoch = epoch + 1
            state.net = f"net-{number:05d}.npz"
            save_state(net, training.folder / state.net)
            state.dro = training.dro_weights()
            eligible = number > config.best_after
            was_eligible = bool(state.phase_best) and state.phase_best["epoch"] > config.best_after
            # Before epoch `best_after` the latest counts as best, so that there is one whenever the run is stopped.
            if not was_eligible or (eligible and val_loss < state.phase_best["val_loss"]):
                state.phase_best, state.best_net, state.waited = {"epoch": number, "val_loss": val_loss}, state.net, 0
            else:
                state.waited += 1
            state.save(training.folder)
            write_history(run.path / "history.csv", state.history)
            for name in old - {state.net, state.best_net, None}:
                (training.folder / name).unlink(missing_ok=True)

    return Recorder()


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """history.csv, whole or not at all."""
    import pandas as pd

    with writing_whole(path, text=True) as file:
        pd.DataFrame(history).to_csv(file, index=False)


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """The first Ctrl-C asks for a clean end and says so, the second one stops at once. Signals reach the main thread only."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        with suppress(OSError):
            # Not print: Python's streams refuse to be written to in the midst of another writing, which this may be.
            os.write(2, b"\nStopping after this batch, or this validation; Ctrl-C again stops at once\n")

    before = signal.signal(signal.SIGINT, asked)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
