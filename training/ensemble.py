"""Train CNNs of random architecture, or take models that exist, and make one model of them.

python -m training.ensemble --members 8 --data data/prepared/ferplus --epochs 12 --export my-ensemble
python -m training.ensemble --join runs/one runs/two saved_models/three --combine weighted --data data/prepared/ferplus
python -m training.ensemble --resume runs/20260101-120000-ensemble

Members are ordinary run folders, OUT/member-01 and so on, each trained by its own seed. The report has the members one by
one, every way of combining them, how often they disagree, and what each adds; the way asked for is exported.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras import cli
from fer_keras.data import targets
from fer_keras.errors import ConfigError, DataError, FerError, TrainingError
from fer_keras.files import may_be_replaced, write_json
from fer_keras.models.ensemble import COMBINATIONS, common_labels
from fer_keras.models.exported import MODEL_FILES, rounded_to_half
from training import config, scoring, train
from training.backend import choose_precision
from training.combining import FEWEST_FACES, FITTED, Member, Plan, choose_faces, combine_members, read_state
from training.config import TrainConfig

if TYPE_CHECKING:
    from fer_keras.data.dataset import FaceDataset

MEMBERS = 8
#: Settings that count where nothing is trained.
WITHOUT_TRAINING = ("data", "seed", "out", "export", "overwrite", "saved_models")


def build_parser() -> cli.CommandParser:
    """The command line: what is combined and how, and one option for each setting of TrainConfig."""
    parser = cli.CommandParser(prog="python -m training.ensemble", description=__doc__)
    parser.add_argument("--members", type=int, help=f"how many to train (default {MEMBERS}; 0 where --join is given)")
    parser.add_argument(
        "--join",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="take these too: run folders (their best weights), exported models (names or folders), or folders of runs (k-fold, "
        "ensemble)",
    )
    parser.add_argument(
        "--combine",
        choices=COMBINATIONS,
        help="how the exported ensemble combines them (default mean); the report has all",
    )
    parser.add_argument(
        "--mirror", action="store_true", help="members answer for a face and its mirror image, the mean counts; twice the time"
    )
    parser.add_argument(
        "--half", action="store_true", help="keep the ensemble's weights in 16 bits: half the size, for hardly another answer"
    )
    parser.add_argument("--protocol", choices=targets.PROTOCOLS, help="how a face gets its true label; default: as in evaluate")
    parser.add_argument("--config", metavar="FILE", help=config.FILE_HELP)
    parser.add_argument("--resume", metavar="OUT", help="go on with an ensemble that was stopped or killed")
    defaults = {"arch": "random_cnn", "out": "runs/TIME-ensemble", "export": "DATA-ensemble"}
    config.add_settings(parser, defaults=defaults)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    if args.resume:
        own = [name for name in ("members", "join", "combine", "protocol", "config", "mirror", "half") if getattr(args, name)]
        if given := [*config.given_settings(args), *own]:
            raise ConfigError(
                f"--resume goes on with the settings of the ensemble; leave out --{given[0].replace('_', '-')} "
                "(to combine its members anew: --join it)"
            )
        out = Path(args.resume)
        plan = _read_plan(out)
        exported = _read_metrics(out).get("exported")
        # What was exported may have been removed since; then it is made again.
        if exported and all((Path(exported) / name).is_file() for name in MODEL_FILES):
            print(f"{out} is finished: {exported}")
            return 0
        dataset = _same_dataset(plan, out)
    else:
        out, plan, dataset = _new_plan(args)
    try:
        members = [*_train_members(out, plan, dataset), *joined_members(plan.join)]
        exported = combine_members(members, dataset, plan, out)
    except KeyboardInterrupt:
        print(f"Go on with python -m training.ensemble --resume {out}", file=sys.stderr)
        raise
    except Exception:
        if not args.resume and not any(out.glob("member-*")):
            shutil.rmtree(out)  # this call made it, and nothing was trained: there is nothing to go on with
        raise
    print(f"Exported: {exported}")
    return 0


# The plan


def _new_plan(args: argparse.Namespace) -> tuple[Path, Plan, FaceDataset]:
    """A checked plan, written to its new folder, and the data set."""
    from training.run_folder import folder_for, taken

    count = args.members if args.members is not None else (0 if args.join else MEMBERS)
    if not 0 <= count <= 999:
        raise ConfigError(f"--members is from 0 to 999, got {count}")
    given = config.given_settings(args)
    from_file = config.read_config_file(args.config) if args.config else {}
    if "arch" not in vars(args) and "arch" not in from_file:
        args.arch = "random_cnn"
    settings = config.from_arguments(args, args.config)
    joined = joined_members(args.join, settings.saved_models)
    if count + len(joined) < 2:
        has = f"{len(joined)} joined and {count} to train"
        raise ConfigError(f"an ensemble needs two models or more, got {has}; give --members, or more models to --join")
    _refuse_idle(given, settings, count)
    runs = [scoring.open_run(member.path) for member in joined if member.is_run]
    if not count or (runs and not settings.data):
        dataset = scoring.common_dataset(runs, settings.data)
    else:
        dataset = train.load_dataset(settings)
    settings = dataclasses.replace(settings, data=str(dataset.path)).resolved()
    for index in range(1, count + 1):  # what can't be built is told before anything is written
        train.model_spec(member_settings(settings, index, Path("-")), dataset)
    common_labels(
        {
            **{member.name: member.labels for member in joined},
            **({f"new members (labels of {dataset.name})": dataset.labels} if count else {}),
        }
    )
    train.check_export(settings)
    notes = shared_weights(joined)  # reads all weights: what can't be read is told before others are trained for hours
    if count:
        for note in notes:  # the report has them too
            print(f"note: {note}")
        # Once for all members, which may be trained on several machines.
        settings = dataclasses.replace(settings, precision=choose_precision(settings.precision))
    with folder_for(settings.out, "ensemble") as out:
        if not may_be_replaced(out):
            raise ConfigError(taken(out, "ensemble.json"))
        settings = dataclasses.replace(settings, out=str(out))
        paths = [str(member.path.resolve()) for member in joined]
        data = str(dataset.path.resolve())
        plan = Plan(settings.to_dict(), count, paths, args.combine or "mean", args.protocol, data, args.mirror, notes, args.half)
        _check_fit(plan, joined, dataset)
        out.mkdir(parents=True, exist_ok=True)
        description = {**dataclasses.asdict(plan), "fingerprint": dataset.fingerprint, "failed": {}}
        write_json(out / "ensemble.json", description)
    return out, plan, dataset


def _refuse_idle(given: Sequence[str], settings: TrainConfig, count: int) -> None:
    """Raise ConfigError for a setting of the command line that changes nothing, where `count` members are trained."""
    config.refuse_idle(given, settings)
    if not count and (idle := [name for name in given if name not in WITHOUT_TRAINING]):
        raise ConfigError(f"--{idle[0].replace('_', '-')} changes nothing here: it is for members to train; give --members")


def _check_fit(plan: Plan, joined: Sequence[Member], dataset: FaceDataset) -> None:
    """Raise DataError at once where weights are to be fitted and there will be no faces for it."""
    if plan.combine in FITTED:
        faces = choose_faces(joined, dataset, plan.protocol)
        if not len(faces.fit_rows):
            raise DataError(
                f"--combine {plan.combine} fits weights on validation faces, and all of {dataset.path}, or all but a few (under "
                f"{FEWEST_FACES}), were used to train a member; combine by mean or vote, or name other data with --data"
            )


def _read_plan(out: Path) -> Plan:
    if not (out / "ensemble.json").is_file():
        raise FerError(
            f"{out} is not the folder of an ensemble: it lacks ensemble.json; training.ensemble prints where it writes"
        )
    values = read_state(out / "ensemble.json")
    return Plan(**{item.name: values[item.name] for item in dataclasses.fields(Plan) if item.name in values})


def _same_dataset(plan: Plan, out: Path) -> FaceDataset:
    from fer_keras.data.dataset import FaceDataset, same_data

    dataset = FaceDataset.load(plan.data)
    if not same_data(read_state(out / "ensemble.json")["fingerprint"], dataset.fingerprint):
        raise DataError(f"{dataset.path} has changed since {out} was begun with it; prepare it as it was, or begin anew")
    return dataset


def _read_metrics(out: Path) -> dict[str, Any]:
    return read_state(out / "metrics.json") if (out / "metrics.json").is_file() else {}


def joined_members(paths: Sequence[str], saved_models: str = "saved_models") -> list[Member]:
    """Members from paths of runs, exported models (or their names), and folders of runs. TensorFlow is not loaded.

    saved_models: the folder in which models are looked for by name, before the shipped ones.
    Raises ModelError or FerError where one is something else, is not trained yet, or is named twice.
    """
    from fer_keras.models.exported import read_metadata
    from fer_keras.models.registry import ModelSpec

    whole = [one for path in paths for one in _runs_in(scoring.find(path, saved_models))]
    members = []
    for path, name in zip(whole, scoring.distinct_names(whole), strict=True):
        if scoring.is_run(path):
            run = scoring.open_run(path)
            if not (path / "best.weights.h5").is_file():
                raise FerError(f"{path} is not trained yet; finish it with python -m training.train --resume {path}")
            members.append(Member(name, path, run.spec, run.labels))
        else:
            metadata = read_metadata(path)
            members.append(Member(name, path, ModelSpec.from_dict(metadata["spec"]), tuple(metadata["labels"])))
    common_labels({member.name: member.labels for member in members} or {"": ()})
    return members


def shared_weights(members: Sequence[Member]) -> list[str]:
    """What a reader should know of members that are part of another, such as of an ensemble, one sentence each.

    Raises ConfigError for two members that are one model, such as a run and what was exported from it.
    """
    cli.import_tensorflow()
    held = []
    for member in members:
        arrays = rounded_to_half(member.keras_model().get_weights())  # as some keep them
        held.append(Counter((array.shape, hashlib.sha256(np.ascontiguousarray(array)).digest()) for array in arrays))
    notes = []
    for first, second in itertools.permutations(range(len(members)), 2):
        inside, whole = members[first], members[second]
        if held[first] == held[second]:
            if first < second and inside.spec == whole.spec:
                raise ConfigError(f"{inside.name} and {whole.name} have the same weights; name each model once")
            if first > second:
                continue
        if held[first] <= held[second]:
            notes.append(f"the weights of {inside.name} are in {whole.name} too, so what it says counts twice")
    return notes


def _runs_in(path: Path) -> list[Path]:
    """A path itself, or the runs inside where it is the folder of a k-fold run or of an ensemble."""
    failed = read_state(path / "ensemble.json")["failed"] if (path / "ensemble.json").is_file() else {}
    inside = sorted(one.parent for name in ("fold-*", "member-*") for one in path.glob(f"{name}/model.json"))
    return [run for run in inside if run.name not in failed] or [path]


# Training


def member_settings(settings: TrainConfig, index: int, folder: Path) -> TrainConfig:
    """The settings of member 1, 2, ...: its own seed for weights, order and dropout, and for what its architecture is drawn by.

    Seeds are spread, so that ensembles of seed 0 and of seed 1 have no member in common.
    """
    seed = int(np.random.SeedSequence([settings.seed, index]).generate_state(1)[0] % 2**31)
    options = dict(settings.options)
    if settings.arch == "random_cnn":
        options = {"draw": seed, **options}
    return dataclasses.replace(settings, seed=seed, options=options, out=str(folder), export=None)


def _train_members(out: Path, plan: Plan, dataset: FaceDataset) -> list[Member]:
    """Train the members that are not trained yet, each by fit_one into OUT/member-NN."""
    settings = TrainConfig.from_dict(plan.settings)
    members = []
    for index in range(1, plan.members + 1):
        folder = out / f"member-{index:02d}"
        failed = read_state(out / "ensemble.json")["failed"]
        if folder.name in failed:
            continue
        try:
            members.append(_train_member(folder, index, plan, settings, dataset))
        except TrainingError as error:
            print(f"{folder.name} is dropped: {error}")
            whole = read_state(out / "ensemble.json")
            write_json(out / "ensemble.json", {**whole, "failed": {**failed, folder.name: str(error)}})
    return members


def _train_member(folder: Path, index: int, plan: Plan, settings: TrainConfig, dataset: FaceDataset) -> Member:
    from training.run_folder import RunFolder

    if folder.exists() and not (folder / "config.json").is_file():
        shutil.rmtree(folder)  # killed while the folder was being made
    known = folder.exists()
    run = RunFolder.open(folder) if known else train.start_run(member_settings(settings, index, folder), dataset)
    member = Member(folder.name, folder, run.spec, run.labels)
    if run.finished:
        return member
    print(f"Member {index} of {plan.members}: {member.describe()} ({folder})", flush=True)
    cli.import_tensorflow()
    import keras

    from training.loop import fit_one

    own = TrainConfig.from_dict(run.config, origin=str(run.path / "config.json"))
    result = fit_one(own, dataset.subset(run.rows("train")), dataset.subset(run.rows("validation")), run)
    if result.interrupted:
        raise KeyboardInterrupt
    keras.backend.clear_session()  # what was traced for one member is of no use to the next
    return member


if __name__ == "__main__":
    raise SystemExit(main())
