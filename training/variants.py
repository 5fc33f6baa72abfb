"""Train many variants of one training and judge them on the same faces: what mitigate, robustness and ablate share.

Each variant is an ordinary run folder, OUT/runs/NAME. Finished ones are kept, one that was killed goes on where it was, so a
command that was stopped goes on when it is given again.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_keras import cli
from fer_keras.data.balance import cells, check_strengths
from fer_keras.data.dataset import FaceDataset, same_data
from fer_keras.data.targets import training_targets
from fer_keras.errors import ConfigError, FerError, TrainingError
from fer_keras.files import alone, read_json, write_whole
from fer_keras.labels import joined_names
from training import config, scoring
from training.config import TrainConfig
from training.run_folder import RunFolder
from training.scoring import ScoredFaces

#: Settings that a command which trains many models sets itself.
OWN_SETTINGS = ("out", "export", "overwrite", "saved_models")


@dataclass(frozen=True)
class Variant:
    """One training. name: of its folder. settings: what it differs in. rows: split -> int64 rows of the data set."""

    name: str
    settings: TrainConfig
    rows: Mapping[str, np.ndarray]


def add_options(parser: cli.CommandParser, default_out: str, without: Sequence[str] = (), groups: bool = True) -> None:
    """--config, --seeds, --out, --protocol, --repeats, and every setting of a training save those it sets itself.

    groups: --min-n too, where groups of people are compared.
    """
    from fer_keras.data.targets import PROTOCOLS
    from fer_keras.evaluation.fairness import MIN_N

    parser.add_argument(
        "--seeds", type=cli.positive_int, default=3, help="trainings of each, by seeds from --seed on (default 3)"
    )
    parser.add_argument("--config", metavar="FILE", help=config.FILE_HELP)
    parser.add_argument(
        "--out", dest="folder", metavar="DIR", help=f"folder of runs and report; given again it goes on; default {default_out}"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, help="how a test face gets its true label; default: as in evaluate")
    if groups:
        parser.add_argument(
            "--min-n",
            type=cli.positive_int,
            default=MIN_N,
            help="groups with fewer test faces are no part of the gap (default %(default)s)",
        )
    parser.add_argument(
        "--repeats",
        type=_repeats,
        default=2000,
        help="repeats of the bootstrap at least; many differences want more of them (default %(default)s)",
    )
    config.add_settings(parser, without=(*OWN_SETTINGS, *without))


def _repeats(text: str) -> int:
    from fer_keras.evaluation.fairness import LEAST_REPEATS

    if (number := cli.positive_int(text)) < LEAST_REPEATS:
        raise argparse.ArgumentTypeError(f"a 95% interval needs {LEAST_REPEATS} or more, got {number}")
    return number


def base_settings(args: argparse.Namespace) -> TrainConfig:
    """The settings that all variants share, resolved."""
    return config.from_arguments(args, args.config).resolved()


def with_seeds(settings: TrainConfig, seeds: int) -> list[TrainConfig]:
    """The same settings with each seed, from the one given on."""
    return [dataclasses.replace(settings, seed=seed) for seed in seeds_of(settings, seeds)]


def seeds_of(settings: TrainConfig, seeds: int) -> list[int]:
    """The seeds of `with_seeds`."""
    return [settings.seed + number for number in range(seeds)]


def train_variants(variants: Sequence[Variant], dataset: FaceDataset, out: Path) -> list[RunFolder]:
    """Train what is not trained yet; the runs in the order given.

    Raises ConfigError where a run of that name was trained with other settings, faces or data; ConfigError, DataError, ModelError
    or TrainingError where a variant does not fit the data; all before anything is trained. KeyboardInterrupt after Ctrl-C.
    """
    for variant in variants:
        _check_fits(variant, dataset)
    runs = [_open_or_start(variant, dataset, out) for variant in variants]
    left = [place for place, run in enumerate(runs) if not run.finished]
    if left:
        print(f"{len(left)} of {len(runs)} trainings to do, in {out / 'runs'}")
        cli.import_tensorflow()
    for number, place in enumerate(left):
        name = variants[place].name
        print(f"[{number + 1}/{len(left)}] {name}")
        runs[place] = _open_or_start(variants[place], dataset, out)  # another command may have made it anew meanwhile
        try:
            _fit(runs[place], dataset)
        except KeyboardInterrupt:
            done = number + runs[place].finished  # Ctrl-C may have come after its last epoch
            following = variants[left[done]].name if done < len(left) else "the report"
            told = f"{done} of {len(left)} trained; the same command again goes on with {following} (--out {out})"
            print(told, file=sys.stderr)
            raise
    return runs


def _check_fits(variant: Variant, dataset: FaceDataset) -> None:
    """Raise FerError, naming the variant, where no training could begin with its settings and this data."""
    from training.train import model_spec

    settings = variant.settings
    try:
        rows = {split: training_targets(dataset, there, settings.targets)[0] for split, there in variant.rows.items()}
        if empty := [split for split, kept in rows.items() if not len(kept)]:
            raise TrainingError(f"no {empty[0]} faces are left with --targets {settings.targets}; check {dataset.path}")
        if settings.balance:
            cells(dataset, rows["train"], settings.balance)
        if settings.balance_by == "augment":
            check_strengths(settings.new_pictures())
        model_spec(settings, dataset)
    except FerError as error:
        raise type(error)(f"{variant.name}: {error}") from error


def _open_or_start(variant: Variant, dataset: FaceDataset, out: Path) -> RunFolder:
    from training.distillation import learnt_before
    from training.train import model_spec

    path = out / "runs" / variant.name
    spec = model_spec(variant.settings, dataset)
    name = f"{out.resolve().name}-{variant.name}"
    settings = dataclasses.replace(variant.settings, arch=spec.name, data=str(dataset.path), out=str(path), export=name)

    def start() -> RunFolder:
        return RunFolder.create(path, settings.to_dict(), spec, dataset, variant.rows, learnt_before(settings, dataset))

    if not (path / "config.json").is_file():
        shutil.rmtree(path, ignore_errors=True)  # killed while the folder was being made
        return start()
    run = RunFolder.open(path)
    aside = ("data", "out", "export")  # the folder may have been moved
    wanted, there = settings.to_dict(), TrainConfig.from_dict(run.config, origin=str(path / "config.json")).to_dict()
    if different := [key for key in wanted if key not in aside and wanted[key] != there[key]]:
        key = different[0]
        what = f"--{key.replace('_', '-')} was {there[key]}, now {wanted[key]}"
    elif not same_data(run.provenance["dataset"]["fingerprint"], dataset.fingerprint):
        what = f"{dataset.path} is other data"
    elif any(not np.array_equal(np.sort(rows), np.sort(run.rows(split))) for split, rows in variant.rows.items()):
        what = "it was trained on other faces"
    else:
        return run
    if run.finished or (run.state_path / "state.json").is_file():
        raise ConfigError(f"{path} was made otherwise: {what}; choose another --out")
    with alone(run.lock_path, f"{path} is being trained by another process; wait for its end"):
        pass  # no epoch of it has come to its end and nobody is at it: nothing is lost
    shutil.rmtree(path)
    return start()


def refuse_to_drop(
    report: Path,
    names: Callable[[Mapping[str, Any]], Iterable[Any]],
    asked: Sequence[Any],
    options: str,
    seeds: Sequence[int],
) -> None:
    """Raise ConfigError where an earlier command left a report on what is not asked for now; the new one would take its place.

    report: its JSON file, which need not be there. names: gives what it is on. options: those by which that is asked for. seeds:
    those asked for now. So a folder has one report, on all that was compared there, whose p values are corrected for all of it.
    FerError for a damaged one.
    """
    if not report.is_file():
        return
    told = read_json(report, damaged="remove it, or choose another --out")
    if lost := [repr(name) for name in names(told) if name not in asked]:
        raise ConfigError(
            f"{report.parent} has a report that tells of {', '.join(lost)} too; ask for that as well ({options}), or choose "
            "another --out"
        )
    if lost := [str(seed) for seed in told["seeds"] if seed not in seeds]:
        every = {*told["seeds"], *seeds}
        raise ConfigError(
            f"{report.parent} has a report on seed{'s' if len(lost) > 1 else ''} {', '.join(lost)} too; ask for that as well "
            f"(--seed {min(every)} --seeds {max(every) - min(every) + 1}), or choose another --out"
        )


def _fit(run: RunFolder, dataset: FaceDataset) -> None:
    from training.loop import fit_one

    settings = TrainConfig.from_dict(run.config, origin=str(run.path / "config.json"))
    result = fit_one(settings, dataset.subset(run.rows("train")), dataset.subset(run.rows("validation")), run)
    if result.interrupted:
        raise KeyboardInterrupt
    _forget_models()


def _forget_models() -> None:
    """Free the models that are no longer used: they hold each other in circles, and would pile up."""
    import gc

    import keras

    keras.utils.clear_session()
    gc.collect()


@dataclass(frozen=True)
class Judged:
    """What variants said of the same faces, those with a known group.

    correct: bool (v, s, n). groups: str (n,). clusters: identities str (n,), or None. predicted: {run name: int64 (n,)}.
    """

    faces: ScoredFaces
    groups: np.ndarray
    clusters: np.ndarray | None
    correct: np.ndarray
    predicted: dict[str, np.ndarray]

    def write_predictions(self, path: Path) -> None:
        """predictions.csv: row, group, true label, and the label that each run gave; every figure can be had from it."""
        import pandas as pd

        names = np.asarray(self.faces.dataset.labels, dtype=object)
        table = {"row": self.faces.rows, "group": self.groups, "true": self.faces.true_names}
        table |= {run: names[labels] for run, labels in self.predicted.items()}
        write_whole(path, pd.DataFrame(table).to_csv(index=False))


def predicted_key(run: RunFolder, mirrored: bool) -> str:
    """What the predictions of a run are called."""
    return f"{run.name}-mirrored" if mirrored else run.name


def judge(runs: Sequence[Sequence[RunFolder]], faces: ScoredFaces, groups: np.ndarray, mirror: Sequence[bool] = ()) -> Judged:
    """Run the best weights of each run over the faces. runs: a sequence of seeds for each variant.

    mirror: whether a variant is judged by the mean of what it says of a face and of its mirror image; none is, by default.
    """
    dataset = faces.dataset
    mirror = mirror or [False] * len(runs)
    predicted, plain = {}, {}
    for seeds, mirrored in zip(runs, mirror, strict=True):
        for run in seeds:
            (model,) = scoring.run_models(run, ["best"], f"{run.name}/")
            if run.name not in plain:  # a run may be judged both ways
                plain[run.name] = scoring.predict_rows(model, dataset, faces.rows)
            said = plain[run.name]
            if mirrored:
                said = said + scoring.predict_rows(model, dataset, faces.rows, change=lambda images, _: images[:, :, ::-1])
            predicted[predicted_key(run, mirrored)] = said.argmax(axis=1)
            del model
            _forget_models()
    correct = np.array(
        [
            [predicted[predicted_key(run, mirrored)] == faces.truth for run in seeds]
            for seeds, mirrored in zip(runs, mirror, strict=True)
        ]
    )
    clusters = dataset.manifest["identity"].to_numpy(str)[faces.rows] if "identity" in dataset.manifest else None
    return Judged(faces, groups, clusters, correct, predicted)


def subset_faces(faces: ScoredFaces, keep: np.ndarray) -> ScoredFaces:
    """Some of the faces. keep: bool (n,) or positions."""
    return dataclasses.replace(faces, rows=faces.rows[keep], truth=faces.truth[keep])


def joined_groups(dataset: FaceDataset, rows: np.ndarray, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(names str (n,), known bool (n,)): the groups of rows, columns joined; not known where any column is not."""
    from fer_keras.evaluation.fairness import JOIN, UNKNOWN

    parts = [dataset.manifest[column].to_numpy(str)[rows] for column in columns]
    known = np.all([~np.isin(part, UNKNOWN) for part in parts], axis=0)
    return joined_names(parts, JOIN.strip()), known


def judged_faces(dataset: FaceDataset, protocol: str | None, settings: Iterable[TrainConfig]) -> tuple[ScoredFaces, list[str]]:
    """The test faces, or those of validation where there is no test, and what a reader should know about that.

    settings: of all variants, which may start from models, or be taught by models, that have seen these faces.
    """
    from training.distillation import notes_on_seen

    faces = scoring.choose_faces([], dataset, None, protocol)
    notes = [note for one in settings for note in notes_on_seen(one, dataset, [faces.split])]
    if faces.split != "test":
        notes.insert(
            0, f"{dataset.name} has no test faces: these are its {faces.split} faces, by which the best epochs were chosen"
        )
    notes += scoring.persons_learnt_note("each model", scoring.persons_learnt(dataset, faces.rows, dataset.rows("train")))
    return faces, list(dict.fromkeys(notes))


def load_dataset(settings: TrainConfig) -> FaceDataset:
    """The data set of the settings. Raises ConfigError where none is named: groups of drawn faces have no gap to close."""
    from training.train import load_dataset as load

    if not settings.data:
        raise ConfigError("name a prepared data set with --data; python -m training.prepare makes one")
    return load(settings)


def figure_text(figure: Mapping[str, Any], sign: bool = False) -> str:
    """A figure with its interval: "0.812 [0.790, 0.835]"."""
    form = "{:+.3f}" if sign else "{:.3f}"
    key = "difference" if "difference" in figure else "mean"
    return f"{form.format(figure[key])} [{form.format(figure['low'])}, {form.format(figure['high'])}]"
