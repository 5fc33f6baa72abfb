"""Train one model: data -> run folder -> evaluation -> saved_models/NAME.

python -m training.train --arch densenet
python -m training.train --arch cnn --data data/prepared/ferplus --epochs 30 --export my-cnn
python -m training.train --resume runs/20260101-120000-cnn
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_keras import cli
from fer_keras.errors import ConfigError, DataError, FerError, ModelError
from fer_keras.files import may_be_replaced, numbered
from training import config, scoring

if TYPE_CHECKING:
    from fer_keras.data.dataset import FaceDataset
    from fer_keras.models.registry import ModelSpec
    from training.config import TrainConfig
    from training.run_folder import RunFolder

DRAWN_NOTICE = """\
No --data given: training on drawn faces, which the project makes itself so that everything can be tried at once.
A model of drawn faces knows nothing of real ones. To use your own:
  python -m training.prepare --source folders --path YOUR_FACES --out data/prepared/mine   (or fer2013, ferplus, table)
  python -m training.train --data data/prepared/mine
"""


#: Bytes. A folder's name may have 255, some of which it needs for a longer name while it is being written.
LONGEST_NAME = 240
#: Settings that a resumed run takes anew: where its data is now, and what becomes of the trained model.
AT_THE_END = ("data", "export", "overwrite", "saved_models")


def build_parser() -> cli.CommandParser:
    """The command line: `--config`, `--resume`, and one option for each setting of TrainConfig."""
    parser = cli.CommandParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help=config.FILE_HELP)
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run that was stopped or killed; may go with --data (where it is now), --export, --overwrite",
    )
    config.add_settings(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return cli.run(_train, build_parser(), argv)


def _train(args: argparse.Namespace) -> int:
    if args.resume:
        given = [name for name in config.given_settings(args) if name not in AT_THE_END] + (["config"] if args.config else [])
        if given:
            raise ConfigError(f"--resume goes on with the settings of the run; leave out --{given[0].replace('_', '-')}")
        return _resume(Path(args.resume), {name: vars(args)[name] for name in AT_THE_END if name in vars(args)})
    settings = config.from_arguments(args, args.config).resolved()
    config.refuse_idle(config.given_settings(args), settings)
    dataset = load_dataset(settings)
    run = start_run(settings, dataset)
    try:
        return _fit_and_finish(run, dataset)
    except FerError:
        if not (run.state_path / "state.json").exists() and not run.finished and not run.lock_path.exists():
            shutil.rmtree(run.path)  # no epoch came to its end and nobody else is at it: there is nothing to go on with
        raise


def _resume(path: Path, given: dict[str, Any]) -> int:
    from fer_keras.models.exported import MODEL_FILES, read_metadata
    from training.run_folder import RunFolder

    run = RunFolder.open(path)
    data = given.pop("data", None)
    dataset = run.dataset(data)
    if data:
        run = run.with_data(dataset)
    exported = run.metrics.get("exported")
    # What was exported may have been removed since, or date from when the run was stopped; then it is made again.
    there = exported and all((Path(exported) / name).is_file() for name in MODEL_FILES)
    if run.finished and not given and there and "stopped" not in read_metadata(exported)["trained_on"]:
        print(f"{path} is finished: {exported}")
        return 0
    return _fit_and_finish(run, dataset, given)


def load_dataset(settings: TrainConfig, needed: Sequence[str] = ("train", "validation")) -> FaceDataset:
    """The data set of the settings; without one the drawn faces, saying so. Raises DataError where a needed split is empty."""
    from fer_keras.data.dataset import FaceDataset

    if settings.data:
        dataset = FaceDataset.load(settings.data)
    else:
        from fer_keras.data.prepare import PrepareSettings, prepare

        print(DRAWN_NOTICE)
        dataset = prepare(PrepareSettings(source="synthetic"))
    for split in needed:
        if not len(dataset.rows(split)):
            has = ", ".join(f"{len(dataset.rows(name))} {name}" for name in dataset.splits()) or "no face at all"
            raise DataError(
                f"{dataset.path} has no {split} faces, only {has}; "
                "prepare it with --split random to split it anew, or add that part at the source"
            )
    return dataset


def start_run(settings: TrainConfig, dataset: FaceDataset) -> RunFolder:
    """A new run folder for the settings. Raises ConfigError where model, data or export name do not go together."""
    from fer_keras.data import splits
    from fer_keras.data.balance import cells
    from training.distillation import learnt_before, notes_on_seen
    from training.run_folder import RunFolder, folder_for

    rows = {split: dataset.rows(split) for split in ("train", "validation")}
    if settings.balance:
        cells(dataset, rows["train"], settings.balance)
    spec = model_spec(settings, dataset)
    faces = dataset.manifest.loc[dataset.rows()]
    for note in [
        *_notes_on_size(settings, spec),
        *notes_on_seen(settings, dataset, ("validation", "test")),
        *splits.unlearnable(faces["label"], faces["split"]),
    ]:
        print(f"note: {note}")
    check_export(settings)
    with folder_for(settings.out, spec.name) as out:
        settings = dataclasses.replace(settings, arch=spec.name, data=str(dataset.path), out=str(out))
        return RunFolder.create(out, settings.to_dict(), spec, dataset, rows, learnt_before(settings, dataset))


def _notes_on_size(settings: TrainConfig, spec: ModelSpec) -> list[str]:
    side = spec.options.get("input_size")
    if side is None or "input_size" in settings.model_options():
        return []
    return [
        f"faces are enlarged from {spec.image_size} to {side} px inside the model, as large as its backbone has learnt them; "
        f"--input-size {spec.image_size} leaves them as they are"
    ]


def _enlarged(settings: TrainConfig, image_size: int) -> dict[str, Any]:
    from fer_keras.models.densenet import backbone_export, learnt_size

    export = backbone_export(settings.weights, settings.saved_models, settings.arch) if settings.two_phases else None
    return learnt_size(export, image_size) if export else {}


def model_spec(settings: TrainConfig, dataset: FaceDataset) -> ModelSpec:
    """The model that the settings describe, for the faces of a data set. Raises ConfigError where they do not fit."""
    from fer_keras.models.registry import ModelSpec
    from fer_keras.models.transfer import exported_options
    from training.distillation import check_teacher

    check_teacher(settings, dataset)
    # Where a backbone starts from another model, it alone does; other networks start from all of one.
    if settings.two_phases:
        shared = _enlarged(settings, dataset.image_size)
    else:
        shared = exported_options(settings.weights, settings.saved_models, settings.arch)
        preset = settings.model_options().get("preset")
        if "preset" in shared and preset not in (None, shared["preset"]):
            raise ConfigError(
                f"--preset {preset} does not go with --weights {settings.weights}, which has its own; leave one of them out"
            )
    return ModelSpec(
        name=settings.arch,
        classes=len(dataset.labels),
        image_size=dataset.image_size,
        channels=settings.channels or dataset.channels,
        options={**shared, **settings.model_options()},
    )


def check_export(settings: TrainConfig, resumed: RunFolder | None = None) -> None:
    """Raise ConfigError where a model can't be exported under the name that was asked for, before hours are spent on it.

    resumed: a run that goes on, and may take the place of what it exported when it was stopped.
    """
    from fer_keras.models.exported import MODEL_FILES

    _check_saved_models(Path(settings.saved_models))
    if not settings.export:
        return
    if Path(settings.export).name != settings.export or settings.export.startswith("."):
        raise ConfigError(f"--export is a name, not a path, got {settings.export!r}; the folder is --saved-models")
    if (size := len(os.fsencode(settings.export))) > LONGEST_NAME:
        raise ConfigError(f"--export is a name of {LONGEST_NAME} bytes at most, got {size}")
    target = Path(settings.saved_models) / settings.export
    if resumed and not resumed.finished and _is_ours(target, resumed):
        return
    if target.exists() and not settings.overwrite:
        run = _unfinished_run(target, settings)
        goes_on = f"its training was stopped and goes on by python -m training.train --resume {run.path}; " if run else ""
        raise ConfigError(f"{target} exists already; {goes_on}choose another --export, or --overwrite")
    if not may_be_replaced(target, *MODEL_FILES):
        raise ConfigError(f"{target} is not an exported model; choose another --export, or remove it")


def _unfinished_run(target: Path, settings: TrainConfig) -> RunFolder | None:
    """The run that was stopped and exported this, where the settings' own folder or runs/ has it, so that it can go on."""
    from fer_keras.models.exported import read_metadata
    from training.run_folder import RunFolder

    try:
        run = RunFolder.open(settings.out or Path("runs") / str(read_metadata(target).get("run")))
        return run if _is_ours(target, run) and not run.finished else None
    except FerError:
        return None


def _check_saved_models(folder: Path) -> None:
    """Raise ConfigError where the folder of exported models can be neither written to nor made."""
    above = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not above.is_dir():
        raise ConfigError(f"--saved-models {folder}: {above} is no folder; name another")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"--saved-models {folder}: nothing can be written to {above}; name another")


def export_under(settings: TrainConfig, default: str, export: Callable[[Path], Path]) -> Path:
    """Have `export` write a folder of exported models and return it: by the name asked for, else `default`, or with a number.

    A default name is taken at the last moment only, since another training may end first and take it.
    """
    folder = Path(settings.saved_models)
    folder.mkdir(parents=True, exist_ok=True)
    if settings.export:
        return export(folder / settings.export)
    for target in numbered(folder / default):
        if not target.exists():
            try:
                return export(target)
            except ModelError:
                if not target.exists():
                    raise  # not because another process took the name meanwhile
    raise AssertionError("numbers never end")


def _fit_and_finish(run: RunFolder, dataset: FaceDataset, given: dict[str, Any] | None = None) -> int:
    """given: settings that a resumed run is exported by in place of its own."""
    settings = config.TrainConfig.from_dict(run.config, origin=str(run.path / "config.json"))
    settings = dataclasses.replace(settings, **(given or {}))
    if given:
        check_export(settings, run)
    else:
        _check_saved_models(Path(settings.saved_models))
    cli.import_tensorflow()
    from training.loop import fit_one

    try:
        if not run.finished:
            print(f"Run folder: {run.path} (all settings in config.json)")
            result = fit_one(settings, dataset.subset(run.rows("train")), dataset.subset(run.rows("validation")), run)
            took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
            print(f"Best epoch {result.best_epoch} of {result.epochs} (validation loss {result.best_val_loss:.4f}); {took}")
            if not run.finished:
                print(f"Go on with --resume {run.path}")
            if passed := _passed_over(run, settings, result.best_val_loss):
                print(passed)
        exported = finish_run(run, settings, dataset)
    except KeyboardInterrupt:
        print(f"Go on with python -m training.train --resume {run.path}", file=sys.stderr)
        raise
    print(f"Exported: {exported}")
    return 0


def _passed_over(run: RunFolder, settings: TrainConfig, best_val_loss: float) -> str | None:
    """Which epoch had a lower validation loss and did not count; None where the best is the lowest."""
    import pandas as pd

    history = pd.read_csv(run.path / "history.csv")
    lowest = history.loc[history["val_loss"].idxmin()]
    if not lowest["val_loss"] < best_val_loss:
        return None
    return (
        f"Epoch {int(lowest['epoch'])} had {lowest['val_loss']:.4f}, but best is looked for after epoch {settings.best_after}, "
        "since single early epochs are good by luck; --best-after 0 looks at all"
    )


def taught_by(run: RunFolder) -> dict[str, Any]:
    """For metadata.json: who taught the model, where somebody did. Of a mean of runs, lists where their teachers differ."""
    if "taught_by" in run.metrics:
        return run.metrics["taught_by"]
    settings = run.config
    if not settings.get("teacher"):
        return {}
    asked = settings.get("teacher_asked") or "faces"
    return {"teacher": Path(settings["teacher"]).name, "teacher_share": settings.get("teacher_share"), "teacher_asked": asked}


def finish_run(run: RunFolder, settings: TrainConfig, dataset: FaceDataset) -> Path:
    """Evaluate best and final on the test split (or validation where there is none), draw, and export the best.

    This is the only place where a training command reads test rows, and nothing is chosen by what it finds.
    """
    from fer_keras.evaluation.plots import plot_history, save_png
    from fer_keras.models.exported import export_model
    from training.evaluate import evaluate_run, summary_text

    learnt, _ = scoring.rows_learnt(run, dataset)
    report = evaluate_run(run)
    print(summary_text(report))
    print(f"Report: {Path(report['out']) / 'report.html'}")
    best = report["models"]["best"]
    figures = [figure_entry(best, report, dataset.name)]
    metadata = {
        "labels": list(run.labels),
        "crop_margin": float(dataset.info.get("crop_margin") or 0.0),
        "temperature": best["temperature"] or 1.0,
        "trained_on": {
            "source": dataset.info.get("source"),
            **run.provenance["dataset"],
            "n_train": run.metrics.get("n_train"),
            "n_validation": run.metrics.get("n_validation"),
            "targets": settings.targets,
            **({"epochs": run.metrics["epochs"]} if "epochs" in run.metrics else {}),  # a mean of runs has none
            **({"stopped": "by Ctrl-C, before its last epoch"} if run.metrics.get("interrupted") else {}),
            **scoring.learnt_from(dataset, learnt),
            **taught_by(run),
            **({"mean_of": run.metrics["mean_of"]} if "mean_of" in run.metrics else {}),
        },
        "figures": figures,
        "seed": settings.seed,
        "git_revision": run.provenance["git_revision"],
        "run": run.name,
    }
    metadata["trained_on"].pop("path")  # a path of this machine is of no use to others
    earlier = run.metrics.get("exported")
    if earlier and not settings.export and _is_ours(Path(settings.saved_models) / Path(earlier).name, run):
        settings = dataclasses.replace(settings, export=Path(earlier).name)  # of a run that was stopped, and then went on
    best_model = run.load_model("best")
    target = export_under(
        settings,
        f"{dataset.name}-{settings.arch}",
        lambda path: export_model(best_model, run.spec, path, metadata, overwrite=settings.overwrite or _is_ours(path, run)),
    )
    run.update_metrics(exported=str(target))
    drawn = ("loss", "accuracy") if (run.path / "history.csv").is_file() else ()  # a mean of runs has none
    for name in drawn:
        save_png(plot_history(run.path / "history.csv", metric=name), run.path / "figures" / f"{name}.png")
    return target


def _is_ours(target: Path, run: RunFolder) -> bool:
    """Whether what stands there was exported by this very run, which may then write it again."""
    from fer_keras.models.exported import read_metadata

    exported = run.metrics.get("exported")
    if not exported or Path(exported).resolve() != target.resolve():
        return False
    try:
        return read_metadata(target).get("run") == run.name
    except ModelError:
        return False


def figure_entry(entry: dict[str, Any], report: dict[str, Any], dataset_name: str) -> dict[str, Any]:
    """One line of figures for metadata and model card, with its protocol.

    n_learnt, n_persons_learnt, where they are not 0: of `scoring.learnt_among`; they flatter the model.
    """
    keep = ("accuracy", "accuracy_ci95", "accuracy_ci95_identities", "macro_f1", "ece", "ece_calibrated")
    return {
        "dataset": dataset_name,
        "split": report["split"],
        "protocol": report["protocol"],
        "n": report["n"],
        **{key: entry[key] for key in keep if key in entry},
        **{key: entry[key] for key in ("n_learnt", "n_persons_learnt") if entry.get(key)},
    }


if __name__ == "__main__":
    raise SystemExit(main())
