"""K-fold cross-validation: every face is judged by a model that never saw it, nor its person.

python -m training.kfold --data data/prepared/ferplus --folds 5 --config training/configs/ferplus-cnn-start.yaml
python -m training.kfold --folds 10 --stratify label,gender,age_group --arch densenet --finetune-epochs 0
python -m training.kfold --resume runs/20260101-120000-cnn-kfold
python -m training.kfold --evaluate-only runs/20260101-120000-cnn-kfold

In each fold a new model learns from the other folds, of which 20% are held back to choose the best epoch. Folds are run
folders, OUT/fold-01 and so on: evaluate and ensemble take them. Nothing is exported, and TensorBoard logs are written only
where asked for (--tensorboard).
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from collections.abc import Sequence

from fer_keras import cli
from fer_keras.data import targets
from fer_keras.data.dataset import SPLITS
from fer_keras.errors import ConfigError, FerError, TrainingError
from training import config, fold_report, folds
from training.executors import Executor, ProcessExecutor, SerialExecutor
from training.folds import FoldTask, KFoldRun

FOLDS = 10


def build_parser() -> cli.CommandParser:
    """The command line: how the data is divided, and one option for each setting of TrainConfig."""
    parser = cli.CommandParser(prog="python -m training.kfold", description=__doc__)
    parser.add_argument("--folds", type=int, help=f"how many, 2 or more (default {FOLDS})")
    parser.add_argument(
        "--stratify",
        metavar="COLUMNS",
        type=cli.words,
        help="each fold has these in the same proportions: label (default), or label,gender,age_group",
    )
    parser.add_argument(
        "--splits",
        metavar="NAMES",
        help="splits of the data set whose faces take part (default: all kept faces, test too); "
        "train,validation keeps the test faces for a last judgement",
    )
    parser.add_argument(
        "--protocol", choices=targets.PROTOCOLS, help="how a face gets its true label when it is judged; default: as in evaluate"
    )
    parser.add_argument(
        "--jobs",
        type=cli.positive_int,
        default=1,
        help="folds side by side, in processes; on the cores that each has the last digits depend (default %(default)s)",
    )
    parser.add_argument("--config", metavar="FILE", help=config.FILE_HELP)
    parser.add_argument("--resume", metavar="OUT", help="go on with a run that was stopped or killed, in the fold it was in")
    parser.add_argument("--evaluate-only", metavar="OUT", help="score the saved folds of a run anew; nothing is trained")
    config.add_settings(parser, without=("export", "overwrite"), defaults={"out": "runs/TIME-ARCH-kfold"})
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    goes_on = args.resume or args.evaluate_only
    run = _open(args) if goes_on else start_run(args)
    dataset = run.dataset()
    tasks, started = _tasks(run, args), time.monotonic()
    try:
        failed = run_folds(run, tasks, args.jobs)
        if failed and not run.scored():
            raise TrainingError(next(iter(failed.values())))
    except FerError:
        if not goes_on and not run.begun():
            shutil.rmtree(run.path)  # no epoch came to its end: there is nothing to go on with
        raise
    result = fold_report.summarize(run, dataset)
    print(fold_report.summary_text(result))
    print(f"Report: {run.path / 'report.html'}")
    if tasks:
        print(f"{len(tasks) - len(failed)} folds in {time.monotonic() - started:.1f} s")
    if failed:
        what = "; ".join(f"fold {fold} failed: {error}" for fold, error in failed.items())
        raise TrainingError(f"{what}; the other folds are kept and in the report; go on with --resume {run.path}")
    return 0


def _open(args: argparse.Namespace) -> KFoldRun:
    option = "resume" if args.resume else "evaluate-only"
    own = [name for name in ("folds", "stratify", "splits", "protocol", "config") if getattr(args, name)]
    if args.resume and args.evaluate_only:
        own.append("evaluate-only")
    if given := [*config.given_settings(args), *own]:
        raise ConfigError(f"--{option} goes on with the settings of the run; leave out --{given[0].replace('_', '-')}")
    return KFoldRun.open(args.resume or args.evaluate_only)


def start_run(args: argparse.Namespace) -> KFoldRun:
    """A new run, its data divided, from a parsed command line."""
    from training.run_folder import folder_for
    from training.train import load_dataset

    count = FOLDS if args.folds is None else args.folds
    if count < 2:
        raise ConfigError(f"--folds must be 2 or more, got {count}; each fold is tested by a model of the others")
    columns = [column for column in args.stratify or [] if column != "label"]  # the label is always part of it
    use = folds.used_splits(args.splits) if args.splits else list(SPLITS)
    from_file = config.read_config_file(args.config) if args.config else {}
    if "tensorboard" not in vars(args) and "tensorboard" not in from_file:
        args.tensorboard = False  # the report has the curves; logs of all folds cost more than a tenth of training a head
    settings = config.from_arguments(args, args.config).resolved()
    config.refuse_idle(config.given_settings(args), settings)
    dataset = load_dataset(settings, needed=())
    protocol = args.protocol or targets.default_protocol(dataset)
    with folder_for(settings.out, f"{settings.arch}-kfold") as out:
        run = folds.start(out, settings, dataset, folds=count, columns=columns, use=use, protocol=protocol)
    for note in run.plan["notes"]:
        print(note)
    print(f"K-fold folder: {run.path} (rows of every fold in folds.csv)")
    return run


def _tasks(run: KFoldRun, args: argparse.Namespace) -> list[FoldTask]:
    if args.evaluate_only:
        return [FoldTask(str(run.path), fold, score_only=True) for fold in run.trained()]
    scored = run.scored()
    left = [fold for fold in run.folds if fold not in scored]
    # Folds of as many faces follow each other: the graph that trains a head is traced for a number of batches.
    left.sort(key=lambda fold: len(run.fold_run(fold).rows("train")))
    return [FoldTask(str(run.path), fold) for fold in left]


def run_folds(run: KFoldRun, tasks: Sequence[FoldTask], jobs: int) -> dict[int, str]:
    """Do the tasks; fold -> error for those that failed. Where the first to end fails, the others are not tried."""
    if not tasks:
        return {}
    executor: Executor = SerialExecutor()
    failed: dict[int, str] = {}
    try:
        if run.shares_features:
            _compute_features(run)
        if min(jobs, len(tasks)) > 1:
            executor = ProcessExecutor(min(jobs, len(tasks)), run.path / "workers.log")
        began, done = time.monotonic(), 0
        with contextlib.closing(executor.run(folds.run_fold, tasks)) as outcomes:
            for outcome in outcomes:
                done += 1
                fold, passed = outcome.task.fold, time.monotonic() - began
                if outcome.error is not None:
                    failed[fold] = outcome.error
                    if done == 1 and not run.scored():
                        break
                    continue
                print(_fold_line(run, outcome.result, f"{done}/{len(tasks)} after {passed:.1f} s"))
    except KeyboardInterrupt:
        print(f"Stopped; go on with --resume {run.path}")
        raise
    finally:
        folds.forget_models()
    return failed


def _compute_features(run: KFoldRun) -> None:
    """The frozen backbone over all faces, before the first fold: once, by all the threads there are."""
    cli.import_tensorflow()
    started = time.monotonic()
    store = folds.shared_features(str(run.path))
    print(store.start())
    store.compute_all()
    print(f"Features of {len(store.rows)} faces x {store.views} views, for all folds: {time.monotonic() - started:.1f} s")


def _fold_line(run: KFoldRun, result: dict, progress: str) -> str:
    accuracy = ", ".join("-" if value is None else f"{which} {value:.3f}" for which, value in result["accuracy"].items())
    return (
        f"Fold {result['fold']} of {run.plan['folds']}: accuracy {accuracy}; "
        f"best epoch {result['best_epoch']} of {result['epochs']}; {result['seconds']:.1f} s ({progress})"
    )


if __name__ == "__main__":
    raise SystemExit(main())
