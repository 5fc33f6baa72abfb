"""One model whose weights are the mean of those of several runs: as good as some ensembles, at the cost of one network.

python -m training.average runs/first runs/trained-on --out runs/mean --export my-mean

For runs of one architecture that began from the same weights, such as one that was trained on with other settings and the one
that it started from; the mean of networks that were trained apart knows nothing. What it is worth is measured as of any run:
compare it with its members, `python -m training.compare`. (Wortsman et al. 2022, "Model soups", https://arxiv.org/abs/2203.05482)
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras import cli
from fer_keras.errors import ConfigError, FerError
from fer_keras.files import may_be_replaced, whole_folder

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.run_folder import RunFolder


def average(runs: Sequence[RunFolder], settings: TrainConfig, out: Path) -> RunFolder:
    """A new, finished run folder with the mean of the best weights of runs, whole or not at all.

    settings: what it records as its own. It trained on all that the runs trained on, had learnt before what any of them had, was
    taught by all that taught them, and is validated on what was validation to all. Raises ConfigError where the runs do not go
    together, FerError where one is not finished or `out` is there, ModelError where weights can't be read.
    """
    from fer_keras.data.dataset import same_data
    from training import scoring
    from training.backend import save_weights
    from training.run_folder import WHICH, RunFolder, taken
    from training.train import taught_by

    if not may_be_replaced(out):
        raise FerError(taken(out))
    first = runs[0]
    datasets = [run.dataset() for run in runs]
    for run, dataset in zip(runs, datasets, strict=True):
        if not run.finished:
            raise FerError(f"{run.path} is not trained yet; finish it with python -m training.train --resume {run.path}")
        if run.spec.to_dict() != first.spec.to_dict() or run.labels != first.labels:
            raise ConfigError(f"{run.path} and {first.path} have different architectures or classes; their weights have no mean")
        if not same_data(datasets[0].fingerprint, dataset.fingerprint):
            raise ConfigError(
                f"{run.path} and {first.path} were trained on different data, {dataset.path} and {datasets[0].path}"
            )
    train = np.unique(np.concatenate([run.rows("train") for run in runs]))
    validation = first.rows("validation")
    for run in runs[1:]:
        validation = np.intersect1d(validation, run.rows("validation"))
    validation = np.setdiff1d(validation, train)
    if not len(validation):
        raise ConfigError(
            "each of the validation faces of one of these runs was used to train another; nothing is left to judge by"
        )
    before = np.unique(np.concatenate([scoring.rows_before(run, dataset) for run, dataset in zip(runs, datasets, strict=True)]))
    model, *others = (run.load_model("best") for run in runs)
    members = [member.get_weights() for member in (model, *others)]
    model.set_weights([np.mean(each, axis=0) for each in zip(*members, strict=True)])
    settings = dataclasses.replace(settings, out=str(out))
    try:
        with whole_folder(out) as folder:  # half a mean would pass for a training to go on with
            rows = {"train": train, "validation": validation}
            made = RunFolder.create(folder, settings.to_dict(), first.spec, datasets[0], rows, before)
            for which in WHICH:
                save_weights(model, folder / f"{which}.weights.h5")
            made.update_metrics(
                mean_of=[run.name for run in runs],
                taught_by=_joined([taught_by(run) for run in runs]),
                n_train=len(train),
                n_validation=len(validation),
            )
    except FileExistsError:
        raise FerError(taken(out)) from None  # another process took the name meanwhile
    return RunFolder.open(out)


def _joined(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Facts of several in one: under each name its value, or a list of those that there are."""
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in told for name in one):
        values = [one[name] for one in told if name in one]
        flat = list(dict.fromkeys(item for value in values for item in (value if isinstance(value, list) else [value])))
        joined[name] = flat[0] if len(flat) == 1 else flat
    return joined


def build_parser() -> cli.CommandParser:
    """The command line of `python -m training.average`."""
    parser = cli.CommandParser(prog="python -m training.average", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two runs or more, of one architecture and on the same data")
    parser.add_argument("--out", metavar="DIR", help="run folder to make; default runs/TIME-mean")
    parser.add_argument("--export", help="name of the exported model under saved_models/; default DATA-ARCH")
    parser.add_argument("--overwrite", action="store_true", help="replace an exported model of that name")
    parser.add_argument("--saved-models", default="saved_models", metavar="DIR", help="folder of the exported models")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    from training.config import TrainConfig
    from training.run_folder import RunFolder, folder_for
    from training.train import check_export, finish_run

    if len({Path(path).resolve() for path in args.runs}) < 2:
        raise ConfigError("a mean needs two different runs or more")
    runs = [RunFolder.open(path) for path in args.runs]
    # The last one's, as the one that was trained on; what it started from says that it has a past.
    settings = TrainConfig.from_dict(runs[-1].config, origin=str(runs[-1].path / "config.json"))
    settings = dataclasses.replace(
        settings,
        export=args.export,
        overwrite=args.overwrite,
        saved_models=args.saved_models,
        out=None,
        precision=runs[-1].precision,
    )
    check_export(settings)
    cli.import_tensorflow()
    with folder_for(args.out, "mean") as out:
        made = average(runs, settings, out)
    print(f"Run folder: {made.path}")
    print(f"Exported: {finish_run(made, settings, made.dataset())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
