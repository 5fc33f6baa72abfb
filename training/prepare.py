"""`python -m training.prepare`: from a data set as people have it to a FaceDataset folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fer_keras.cli import CommandParser, positive_int, run, words
from fer_keras.labels import split_names

_EXAMPLES = """
examples:
  python -m training.prepare --source fer2013 --csv fer2013.csv --votes fer2013new.csv --out data/ferplus
  python -m training.prepare --source ferplus --path FERPlus/data --out data/ferplus
  python -m training.prepare --source folders --path pictures --map disgust=anger,contempt= --size 96 --rgb
  python -m training.prepare --source table --csv labels.csv --images . --columns image=pth,label=label --crop mtcnn
  python -m training.prepare --source synthetic --count 2400
"""


def build_parser() -> CommandParser:
    """The options of the command; defaults stand in fer_keras.data.prepare.PrepareSettings alone."""
    parser = CommandParser(prog="python -m training.prepare", description=__doc__, epilog=_EXAMPLES)
    add = parser.add_argument_group("source").add_argument
    add("--source", required=True, help="fer2013, ferplus, folders, table or synthetic")
    add("--csv", metavar="FILE", help="fer2013: Kaggle's csv (emotion,pixels,Usage); table: any csv")
    add("--votes", metavar="FILE", help="fer2013: FER+'s fer2013new.csv, one line a line of --csv")
    add("--path", metavar="DIR", help="ferplus: folder of FER2013Train, ...; folders: folder of class folders")
    add("--images", metavar="DIR", help="table: folder that the image column is relative to")
    add(
        "--columns",
        metavar="WHAT=COLUMN,...",
        type=_pairs,
        help="table: image, label, split, identity, gender, age, age_group, ...",
    )
    add("--metadata", metavar="FILE", help="table: second csv, joined by image name")
    add("--labels", metavar="NAME,...", type=_labels, help="folders, table: the labels that may occur; another one is an error")
    add("--count", metavar="N", type=positive_int, help="synthetic: how many faces (default 2400)")
    add = parser.add_argument_group("faces").add_argument
    add("--size", type=positive_int, metavar="PX", help="side of the faces (default 48)")
    colour = parser.add_mutually_exclusive_group()
    colour.add_argument("--gray", dest="channels", action="store_const", const=1, help="grey faces (default)")
    colour.add_argument("--rgb", dest="channels", action="store_const", const=3, help="colour faces")
    add("--crop", metavar="HOW", help="none (default), haar or mtcnn: find the face in each photograph")
    add("--margin", type=float, metavar="PART", help="with --crop: part of the box added on each side (default 0.1)")
    add("--faces", metavar="WHICH", help="with --crop: largest (default) or all faces of a photograph")
    add("--min-face", type=positive_int, metavar="PX", help="with --crop: smallest face looked for")
    add = parser.add_argument_group("labels, cleaning, splits").add_argument
    add("--map", dest="label_map", metavar="FROM=TO,...", help=r"merge, rename or drop (FROM=) labels; a comma in a name is \,")
    add(
        "--keep",
        metavar="REASON,...",
        type=_names,
        help="cleaning to switch off: blank, duplicate, conflicting_labels, leakage, no_face",
    )
    add(
        "--drop",
        metavar="REASON,...",
        type=_names,
        help="cleaning to switch on: ambiguous, near_duplicate (the same picture re-encoded, resized, lit otherwise or mirrored; "
        "shifted, turned and cropped ones are not found)",
    )
    add(
        "--near-distance",
        type=int,
        metavar="BITS",
        help="near_duplicate: bits of 64 in which hashes may differ (default 4; with more, different faces are taken for one)",
    )
    add("--clean-splits", metavar="WHICH", help="auto (default): not official validation and test rows; train; all")
    add("--split", metavar="HOW", help="source (default): its own splits where it has them; random")
    add("--split-by", metavar="label,...", type=_names, help="stratify by label and group columns (default label)")
    add("--fractions", metavar="T,V,T", type=_numbers, help="parts of train, validation, test (default 70,15,15)")
    add("--seed", type=int, metavar="N", help="of the split and of drawn faces (default 0)")
    add = parser.add_argument_group("output").add_argument
    add("--out", metavar="DIR", help="folder of the data set (default data/prepared/SOURCE-HASH)")
    add("--overwrite", action="store_true", default=None, help="replace the data set at --out")
    add("--quiet", action="store_true", help="print the folder only")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_prepare, build_parser(), argv)


def _prepare(args: argparse.Namespace) -> None:
    from fer_keras.data.prepare import PrepareSettings, prepare, refuse_idle

    given = {name: value for name, value in vars(args).items() if value is not None and name not in ("debug", "quiet")}
    settings = PrepareSettings(**given)
    refuse_idle(given, settings)
    # At once, not in the end: where the work fails, they are what explains it.
    tell = (lambda text: None) if args.quiet else (lambda text: print(f"- {text}", flush=True))
    dataset = prepare(settings, tell=tell, progress=not args.quiet)
    if args.quiet:
        print(dataset.path)
        return
    print(_summary(dataset.info))
    print(f"{dataset.path}: {len(dataset.rows())} faces of {dataset.image_size}x{dataset.image_size}x{dataset.channels}")


def _summary(info: dict) -> str:
    """Kept faces by label and split, and dropped rows by reason and split."""
    from fer_keras.data.dataset import SPLITS

    counts, dropped = info["counts"], info["cleaning"]
    lines = [("kept", *SPLITS)]
    lines += [(label, *(counts.get(split, {}).get(label, 0) for split in SPLITS)) for label in info["labels"]]
    lines += [("total", *(sum(counts.get(split, {}).values()) for split in SPLITS))]
    if dropped:
        columns = {split: split for split in SPLITS}
        if any("" in found for found in dropped.values()):  # rows dropped before the tool made the splits
            columns[""] = "not split"
        lines += [("",), ("dropped", *columns.values())]
        lines += [(reason, *(found.get(split, 0) for split in columns)) for reason, found in dropped.items()]
    text = "\n".join((f"{name:<20}" + "".join(f"{cell:>12}" for cell in cells)).rstrip() for name, *cells in lines)
    if info["noted"]:
        text += "\nkept, but noted: " + ", ".join(f"{reason} {count}" for reason, count in info["noted"].items())
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(words(text))


def _labels(text: str) -> tuple[str, ...]:
    return tuple(split_names(text))


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for part in _names(text):
        what, sign, column = (piece.strip() for piece in part.partition("="))
        if not (what and sign and column):
            raise argparse.ArgumentTypeError(f"expected WHAT=COLUMN, such as image=pth, got {part!r}")
        if what in pairs:
            raise argparse.ArgumentTypeError(f"{what!r} is named twice")
        pairs[what] = column
    return pairs


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected three numbers such as 70,15,15, got {text!r}") from error


if __name__ == "__main__":
    raise SystemExit(main())
