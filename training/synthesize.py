"""Write out the new pictures that bring short cells up: mirrored, turned, shifted, lighter or darker copies of training faces.

python -m training.synthesize --data data/prepared/mine --by label,gender --out data/prepared/mine-balanced

The new data set has every row of the old one, and more training rows. Column `origin` is the row that a new picture was made
of (-1: a picture of the old data set), `change` what was done to it. Validation and test faces stay as they are. The pictures
are those that training on the old data set with `--balance label,gender --balance-by augment` and the same --seed makes; written
out they can be looked at and used elsewhere. For k-fold use --balance-by, which makes them of each fold's training faces alone.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras import cli
from fer_keras.data.balance import CHANGES, CellPlan, augmented_cells, cells
from fer_keras.data.dataset import DatasetWriter, FaceDataset
from fer_keras.errors import ConfigError, DataError
from fer_keras.evaluation.ordering import in_order
from training import config

if TYPE_CHECKING:
    from fer_keras.data.pipeline import Augmentation

BATCH = 256
#: The parts of an Augmentation that new pictures are made by.
STRENGTHS = ("flip", "rotate_deg", "shift", "brightness", "contrast")
#: The settings of a training that say which new pictures are made.
SETTINGS = ("flip", "rotate", "shift", "brightness", "contrast", "balance_power", "seed")
#: What the new data set's manifest has more than the old one's.
COLUMNS = ("origin", "change")


def synthesize(
    dataset: FaceDataset,
    by: Sequence[str],
    out: str | os.PathLike,
    strengths: Augmentation,
    *,
    target: int | None = None,
    power: float = 1.0,
    seed: int = 0,
    overwrite: bool = False,
) -> FaceDataset:
    """A copy of a data set with new training pictures for its short cells.

    by: "label" or group columns, whose cells are brought up. The rest is as in `balance.augmented_cells`. A new picture has
    label, groups, votes and identity of its origin; without identities the two are given one, so that no later split parts
    them. Raises ConfigError for unknown columns, DataError where there are no training faces, or the data set has new pictures or
    columns of such names already, or something stands at `out`.
    """
    rows = dataset.rows("train")
    if not len(rows):
        raise DataError(f"{dataset.path} has no training faces to make new ones of; prepare it with --split random")
    if "synthesized" in dataset.info:
        raise DataError(f"{dataset.path} has new pictures already; make them of the data set that it came from")
    if taken := [name for name in COLUMNS if name in dataset.manifest]:
        raise DataError(
            f"{dataset.path} has a column {taken[0]!r}, where the new data set is to say what a new picture was made of; prepare "
            f"the data again and call the column otherwise, such as --columns {taken[0]}_group=COLUMN"
        )
    if dataset.path.resolve().is_relative_to(Path(out).resolve()):
        raise ConfigError("--out is the data set itself, or a folder around it; name another folder")
    plan = augmented_cells(cells(dataset, rows, by), strengths, target=target, power=power, seed=seed)
    plan = CellPlan(plan.positions[plan.made], plan.changes[plan.made])
    origins = rows[plan.positions]
    with DatasetWriter(out, image_size=dataset.image_size, channels=dataset.channels, overwrite=overwrite) as writer:
        _write(writer, dataset, np.arange(len(dataset.manifest)), None)
        _write(writer, dataset, origins, plan.changes)
        return writer.finish(
            _columns(dataset, origins, plan.changes),
            labels=dataset.labels,
            group_columns=dataset.group_columns,
            info={
                **_info(dataset, origins),
                "synthesized": {
                    "from": dataset.name,
                    "fingerprint": dataset.fingerprint,
                    "by": list(by),
                    "target": target,
                    "power": power,
                    "seed": seed,
                    "new_pictures": len(origins),
                    **{name: getattr(strengths, name) for name in STRENGTHS},
                },
            },
        )


def _write(writer: DatasetWriter, dataset: FaceDataset, rows: np.ndarray, changes: np.ndarray | None) -> None:
    """Add rows to the new data set some at a time, changed where `changes` are given."""
    from tqdm import tqdm

    if changes is not None:
        cli.import_tensorflow()
    with tqdm(total=len(rows), desc="copied" if changes is None else "new", unit="face", disable=None, leave=False) as progress:
        for start in range(0, len(rows), BATCH):
            faces = dataset.faces[rows[start : start + BATCH]]
            if changes is not None:
                faces = _altered(faces, changes[start : start + BATCH])
            for face in faces:
                writer.add(face)
            progress.update(len(faces))


def _altered(faces: np.ndarray, changes: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    from fer_keras.data.pipeline import alter

    return alter(tf.constant(faces, tf.float32), tf.constant(changes)).numpy().astype(np.uint8)


def _columns(dataset: FaceDataset, origins: np.ndarray, changes: np.ndarray) -> dict[str, Any]:
    import pandas as pd

    manifest = dataset.manifest.drop(columns="row")
    if "identity" not in manifest:
        manifest["identity"] = ""
    nameless = np.unique(origins)[manifest["identity"].to_numpy(str)[np.unique(origins)] == ""]
    manifest.loc[nameless, "identity"] = [f"row{row}" for row in nameless]
    table = pd.concat([manifest, manifest.loc[origins]], ignore_index=True)
    none = np.full(len(manifest), -1)
    return {
        **{column: table[column] for column in table.columns},
        "origin": np.concatenate([none, origins]),
        "change": [""] * len(manifest) + [_described(line) for line in changes.tolist()],
    }


def _described(change: Sequence[float]) -> str:
    """What was done to a picture: "mirror=1 rotate_deg=-3.21 ...", what was not done left out."""
    return " ".join(f"{name}={value:.6g}" for name, value in zip(CHANGES, change, strict=True) if value)


def _info(dataset: FaceDataset, origins: np.ndarray) -> dict[str, Any]:
    """The old description with the new counts. Its settings get another name, so that `prepare` does not take it for its own."""
    own = ("format_version", "labels", "image_size", "channels", "group_columns", "faces_hash", "settings", "source_fingerprint")
    info = {key: value for key, value in dataset.info.items() if key not in own}
    info["prepared_with"] = dataset.info.get("settings")
    if "counts" in info:
        names, more = np.unique(dataset.manifest["label"].to_numpy(str)[origins], return_counts=True)
        train = dict(info["counts"].get("train", {}))
        for name, count in zip(names, more, strict=True):
            train[str(name)] = train.get(str(name), 0) + int(count)
        info["counts"] = {**info["counts"], "train": train}
    return info


def build_parser() -> cli.CommandParser:
    """The command line of `python -m training.synthesize`."""
    parser = cli.CommandParser(prog="python -m training.synthesize", description=__doc__)
    parser.add_argument("--by", required=True, metavar="COLUMNS", help="cells to bring up: label, gender, label,gender ...")
    parser.add_argument("--target", type=cli.positive_int, help="faces a cell; default: as many as the largest cell has")
    parser.add_argument("--data", required=True, help="prepared data set (a folder from training.prepare)")
    parser.add_argument("--out", dest="folder", required=True, metavar="DIR", help="the new data set")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that stands at --out")
    config.add_settings(parser, without=[name for name in config.setting_names() if name not in SETTINGS])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    settings = config.from_arguments(args, None)
    by = cli.words(args.by)
    if not by:
        raise ConfigError("--by names no column; give label, a group column, or several with commas")
    dataset = FaceDataset.load(args.data)
    before = cells(dataset, dataset.rows("train"), by)
    made = synthesize(
        dataset,
        by,
        args.folder,
        settings.new_pictures(),
        target=args.target,
        power=settings.balance_power,
        seed=settings.seed,
        overwrite=args.overwrite,
    )
    print(cells_text(before, cells(made, made.rows("train"), by)))
    print(f"{len(made.manifest) - len(dataset.manifest)} new pictures: {made.path}")
    return 0


def cells_text(before: np.ndarray, after: np.ndarray) -> str:
    """How many faces each cell had and has, as a table."""
    import pandas as pd

    counts = pd.DataFrame({"before": pd.Series(before).value_counts(), "after": pd.Series(after).value_counts()})
    counts = counts.loc[in_order(counts.index)]
    counts.index = [name or "(group unknown)" for name in counts.index]
    return counts.rename_axis("training faces").reset_index().to_string(index=False)


if __name__ == "__main__":
    raise SystemExit(main())
