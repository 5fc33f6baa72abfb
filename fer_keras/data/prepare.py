"""From a source to a FaceDataset: read, crop, clean, split, write. Once: the same settings again do nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.data import cleaning, splits
from fer_keras.data.dataset import SPLITS, UNKNOWN, VOTE_COLUMNS, DatasetWriter, FaceDataset
from fer_keras.data.images import crop_box, resize, to_channels
from fer_keras.data.sources.base import Source, SourceTable, in_utf8
from fer_keras.data.targets import vote_labels
from fer_keras.errors import ConfigError, DataError
from fer_keras.labels import canonical, canonical_names, ordered, parse_label_map, resolve_label_map

if TYPE_CHECKING:
    import pandas as pd

    from fer_keras.detectors import Detector

SOURCES = ("fer2013", "ferplus", "folders", "table", "synthetic")
CROPS = ("none", "haar", "mtcnn")
MAX_SIZE_PX = 1024

#: Which settings name the files of each source: those it needs, and those it can have.
_NEEDED = {"fer2013": ("csv",), "ferplus": ("path",), "folders": ("path",), "table": ("csv", "images", "columns")}
_POSSIBLE = {"fer2013": ("votes",), "folders": ("labels",), "table": ("metadata", "labels"), "synthetic": ("count",)}
_FLAGS = {"label_map": "--map", "channels": "--gray/--rgb"}
#: Settings that do not change what is in the data set.
_NOT_CONTENT = ("out", "overwrite")


def _from_home(name: str) -> Path:
    """A path whose ~ is somebody's home, or else stays: Path.expanduser fails for a file ~name where nobody is called so."""
    return Path(os.path.expanduser(name))


@dataclass(frozen=True)
class PrepareSettings:
    """Every setting of `training.prepare`. Checked when made: raises ConfigError, naming the flag.

    source: one of SOURCES; csv, votes, path, images, columns, metadata, count: its files, as the reader of the source says.
    labels: the labels that folders or a table may have; none: whatever is found.
    seed: of the split, and of the drawn faces. size: side of the faces in pixels. channels: 1 grey, 3 RGB.
    label_map: `labels.parse_label_map` text. crop: detector for photographs; margin: part of the box added on each side;
    faces: "largest" or "all" of a photograph; min_face: smallest face looked for, in pixels.
    keep, drop: cleaning reasons switched off and on; near_distance: bits; clean_splits: "auto" cleans all splits but the
    validation and test splits of a published benchmark, "train" the training split only, "all" all.
    split: "source" uses the source's splits where it has them, "random" never; split_by: "label" and group columns;
    fractions: of train, validation and test.
    out: folder of the data set; none: data/prepared/SOURCE-HASH. overwrite: replace the data set there.
    """

    source: str
    csv: str | None = None
    votes: str | None = None
    path: str | None = None
    images: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    metadata: str | None = None
    count: int | None = None
    labels: tuple[str, ...] = ()
    seed: int = 0
    size: int = 48
    channels: int = 1
    label_map: str = ""
    crop: str = "none"
    margin: float = 0.1
    faces: str = "largest"
    min_face: int | None = None
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    near_distance: int = cleaning.NEAR_DISTANCE
    clean_splits: str = "auto"
    split: str = "source"
    split_by: tuple[str, ...] = ("label",)
    fractions: tuple[float, float, float] = (0.70, 0.15, 0.15)
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        _choice("--source", self.source, SOURCES)
        _choice("--crop", self.crop, CROPS)
        _choice("--faces", self.faces, ("largest", "all"))
        _choice("--clean-splits", self.clean_splits, ("auto", "train", "all"))
        _choice("--split", self.split, ("source", "random"))
        needed, possible = _NEEDED.get(self.source, ()), _POSSIBLE.get(self.source, ())
        for name in ("csv", "votes", "path", "images", "columns", "metadata", "count", "labels"):
            given, flag = bool(getattr(self, name)), f"--{name}"
            if name in needed and not given:
                raise ConfigError(
                    f"--source {self.source} needs {' and '.join(f'--{each}' for each in needed)}; {flag} is missing"
                )
            if given and name not in (*needed, *possible):
                has = ", ".join(f"--{each}" for each in (*needed, *possible)) or "none"
                raise ConfigError(f"--source {self.source} has no {flag}; its own settings are {has}")
        _between("--size", self.size, 8, MAX_SIZE_PX)
        _between("--margin", self.margin, 0, 2)
        _between("--near-distance", self.near_distance, 0, 16)
        if self.channels not in (1, 3):
            raise ConfigError(f"channels is 1 (--gray) or 3 (--rgb), got {self.channels}")
        if self.count is not None and self.count < 1:
            raise ConfigError(f"--count is 1 or more, got {self.count}")
        if self.min_face is not None and self.min_face < 10:
            raise ConfigError(f"--min-face is 10 pixels or more, got {self.min_face}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed is a whole number from 0 to 4294967295, got {self.seed}")
        if "label" not in self.split_by:
            raise ConfigError(f"--split-by starts with label (label, or label,gender,...), got {','.join(self.split_by)!r}")
        object.__setattr__(self, "fractions", splits.check_fractions(self.fractions))
        cleaning.dropped_reasons(self.keep, self.drop)
        parse_label_map(self.label_map)
        self._check_place()
        for name, value in self.to_dict().items():
            text = json.dumps(value, ensure_ascii=False)
            if text != in_utf8(text):
                raise ConfigError(f"{_flag(name)} {in_utf8(text)} is not UTF-8, so dataset.json can't hold it; rename it")

    def _check_place(self) -> None:
        """Raise ConfigError where the data set would stand on, around or among the files that it is made of."""
        out = self.folder.resolve()
        for name in ("csv", "votes", "path", "images", "metadata"):
            if not getattr(self, name):
                continue
            given = _from_home(getattr(self, name)).resolve()
            # Among --images is allowed: only the pictures that the csv names are read, and `--images .` is usual.
            if given.is_relative_to(out) or (name == "path" and out.is_relative_to(given)):
                raise ConfigError(
                    f"--out {self.folder} and --{name} {getattr(self, name)} are one inside the other; "
                    "choose an --out away from the source"
                )

    def to_dict(self) -> dict[str, Any]:
        """What decides about the content of the data set, as JSON has it; paths are absolute."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_CONTENT}
        for name in ("csv", "votes", "path", "images", "metadata"):
            if values[name] is not None:
                values[name] = str(_from_home(values[name]).resolve())
        return json.loads(json.dumps(values))

    @property
    def folder(self) -> Path:
        """Where the data set goes."""
        if self.out:
            return _from_home(self.out)
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:8]
        return Path("data") / "prepared" / f"{self.source}-{digest}"


def refuse_idle(names: Iterable[str], settings: PrepareSettings) -> None:
    """Raise ConfigError for a setting that changes nothing here, as `training.config.refuse_idle` does for a training.

    names: the settings that were on the command line.
    """
    crops = (settings.crop != "none", "--crop haar or mtcnn")
    needs = {
        **dict.fromkeys(("margin", "faces", "min_face"), crops),
        "near_distance": ("near_duplicate" in settings.drop, "--drop near_duplicate"),
        "clean_splits": (settings.split == "source", "the source's own splits, which --split random leaves aside"),
    }
    for name in names:
        there, what = needs.get(name, (True, ""))
        if not there:
            raise ConfigError(f"{_flag(name)} changes nothing here: it is for {what}")


def prepare(settings: PrepareSettings, *, tell: Callable[[str], None] = lambda text: None, progress: bool = False) -> FaceDataset:
    """Make the data set that the settings describe, or open it where it is there already.

    tell: hears remarks for the user, one line each. progress: draw a progress bar (on a terminal only).
    Raises DataError where the source is not what was expected, or another data set is in the way; nothing is left behind.
    """
    out = settings.folder
    source = open_source(settings)
    fingerprint = source.fingerprint()
    if not settings.overwrite and (out / "dataset.json").is_file():
        _check_same(FaceDataset.load(out), settings, fingerprint)
        tell(f"already prepared: {out} (same settings, same source)")
        return FaceDataset.load(out)

    table = source.read()
    for remark in table.remarks:
        tell(remark)
    label_map = _label_map(table, settings.label_map)
    with DatasetWriter(out, image_size=settings.size, channels=settings.channels, overwrite=settings.overwrite) as writer:
        faces = _write_faces(writer, source, table, settings, progress)
        if faces.squeezed:
            tell(f"{faces.squeezed} pictures are not square and were squeezed to {settings.size}x{settings.size}")
        rows = table.rows.iloc[faces.origins].reset_index(drop=True)
        if faces.boxes is not None:
            rows["box"] = faces.boxes
        if settings.split == "random":
            rows["split"] = ""
        hashes = cleaning.perceptual_hashes(writer.faces(), np.arange(len(rows)))
        reasons, notes, copies = _judge(rows, faces, hashes, label_map, _protected(rows, table, settings), settings.near_distance)
        kept = np.array([not reason for reason in reasons])
        if not kept.any():
            raise DataError(
                f"no face is left of {len(rows)} rows: {_in_words(reasons)}; "
                "look at the source, or --keep a reason that should not count"
            )
        for column in table.group_columns:
            # As labels: what copies of one picture say in different ways is not known. The dropped ones keep what they say.
            values = rows[column].to_numpy(str)
            unclear = kept & cleaning.copies_differ(copies, values, values != UNKNOWN)
            if unclear.any():
                rows.loc[unclear, column] = UNKNOWN
                tell(f"{unclear.sum()} pictures have copies with another {column}, so theirs counts as {UNKNOWN}")
        rows["split"] = _splits(rows.assign(reason=reasons), kept, table, faces.features, settings, tell)
        labels = ordered(name for name in label_map.values() if name)
        near = _near_copies(rows["split"].to_numpy(str), kept, hashes, copies, faces.dropped)
        if near:
            tell(
                "faces of validation or test with near copies in another split (re-encoded, resized, lit otherwise or mirrored): "
                f"{near}, so figures flatter; --drop near_duplicate keeps each in one"
            )
        shared = _shared_persons(rows[kept])
        if shared:
            tell(f"{shared} persons have faces in more than one split, so figures flatter; --split random keeps them apart")
        for remarks in (splits.unlearnable, splits.unmeasurable):
            for remark in remarks(rows["label"][kept], rows["split"][kept]):
                tell(remark)
        if len(set(rows["label"][kept])) < 2:
            others = f" (dropped: {_in_words(reasons)})" if any(reasons) else ""
            raise DataError(
                f"only one label is left, {rows['label'][kept].iloc[0]!r}{others}; expected at least two classes to tell apart"
            )
        columns = {"label": rows["label"], "split": rows["split"], "kept": kept, "reason": reasons, "note": notes}
        last = [*table.group_columns, "identity", "fer2013_label", *VOTE_COLUMNS, "box", "source"]
        columns |= {name: rows[name] for name in last if name in rows}
        return writer.finish(
            columns,
            labels=labels,
            group_columns=table.group_columns,
            info={
                "source": settings.source,
                "settings": settings.to_dict(),
                "source_fingerprint": fingerprint,
                "label_map": label_map,
                "crop_margin": settings.margin if settings.crop != "none" else 0.0,
                "counts": _counts(rows["label"][kept], rows["split"][kept], labels),
                "cleaning": _counts(rows["split"][~kept], np.array(reasons)[~kept], (*SPLITS, "")),
                "noted": _noted(notes, kept)
                | ({"near copies in several splits": near} if near else {})
                | ({"persons in several splits": shared} if shared else {}),
            },
        )


def open_source(settings: PrepareSettings) -> Source:
    """The reader of the source that the settings name. Raises DataError where its files are missing."""
    if settings.source == "fer2013":
        from fer_keras.data.sources.kaggle_csv import KaggleCsv

        return KaggleCsv(settings.csv, settings.votes)
    if settings.source == "ferplus":
        from fer_keras.data.sources.ferplus import FerPlusFolders

        return FerPlusFolders(settings.path)
    if settings.source == "folders":
        from fer_keras.data.sources.folders import ClassFolders

        return ClassFolders(settings.path, settings.labels)
    if settings.source == "table":
        from fer_keras.data.sources.table import Table

        return Table(settings.csv, settings.images, settings.columns, settings.metadata, settings.labels)
    from fer_keras.data.sources.synthetic import DrawnFaces

    return DrawnFaces(settings.count, settings.seed, settings.size)


@dataclass
class _Faces:
    """What became of the pictures of a source; one entry a face written."""

    features: cleaning.Features
    dropped: frozenset[str]
    origins: list[int] = field(default_factory=list)  # row of the source's table
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faceless: list[bool] = field(default_factory=list)
    boxes: list[str] | None = None
    squeezed: int = 0


def _write_faces(writer: DatasetWriter, source: Source, table: SourceTable, settings: PrepareSettings, progress: bool) -> _Faces:
    """Decode, crop, resize and write every picture, one by one: memory does not grow with their number."""
    from tqdm import tqdm

    dropped = cleaning.dropped_reasons(settings.keep, settings.drop)
    faces = _Faces(cleaning.Features(), dropped)
    detector = None
    if settings.crop != "none":
        from fer_keras.detectors import create_detector

        detector = create_detector(settings.crop, min_face_px=settings.min_face)
        faces.boxes = []
    pictures = source.pictures(3 if detector else settings.channels)
    pictures = tqdm(pictures, total=len(table.rows), desc="faces", unit="", disable=None if progress else True)
    for origin, picture in enumerate(pictures):
        if picture.pixels is None:
            cuts = [(None, "")]
        elif detector:
            cuts = _cropped(picture.pixels, detector, settings)
        else:
            cuts = [(picture.pixels, "")]
        for pixels, box in cuts:
            reason, note = (picture.reason, picture.note) if pixels is None else _shape_problem(pixels)
            if pixels is not None:
                pixels = to_channels(pixels, settings.channels)
                height, width = pixels.shape[:2]
                faces.squeezed += abs(height - width) > 0.05 * max(height, width)
            faces.features.add(pixels)
            writer.add(None if pixels is None else resize(pixels, settings.size))
            faces.origins.append(origin)
            faces.reasons.append(reason)
            faces.notes.append(note)
            faces.faceless.append(detector is not None and pixels is not None and not box)
            if faces.boxes is not None:
                faces.boxes.append(box)
    given = len(set(faces.origins))
    if given != len(table.rows):
        raise DataError(f"the source gave {given} pictures for {len(table.rows)} rows; did its files change meanwhile?")
    return faces


def _judge(
    rows: pd.DataFrame,
    faces: _Faces,
    hashes: np.ndarray,
    label_map: Mapping[str, str | None],
    protected: np.ndarray,
    near_distance: int,
) -> tuple[list[str], list[str], np.ndarray]:
    """Map the labels of `rows`, in place, and find out which rows to drop.

    Returns reasons and notes, "" for none, and int (n,), equal for what counted as copies.
    """
    if VOTE_COLUMNS[0] in rows:  # merged emotions may have most votes where neither has alone
        mapped = vote_labels(rows[list(VOTE_COLUMNS)].to_numpy(np.int64), label_map)
    else:
        mapped = [label_map.get(name) if name else "" for name in rows["label"].to_numpy(str)]
    rows["label"] = [name or "" for name in mapped]
    reasons, notes = list(faces.reasons), list(faces.notes)
    for row, name in enumerate(mapped):
        if not reasons[row] and not name:
            reasons[row] = "label_dropped" if name is None else "no_label"
    copies = cleaning.judge(
        rows,
        faces.features,
        reasons,
        notes,
        hashes=hashes,
        dropped=faces.dropped,
        protected=protected,
        faceless=np.array(faces.faceless),
        near_distance=near_distance,
        label_map=label_map,
    )
    return reasons, notes, copies


def _noted(notes: list[str], kept: np.ndarray) -> dict[str, int]:
    """How often each reason was only noted, in rows that are kept."""
    parts = Counter(part.split(" ")[0] for note, keep in zip(notes, kept, strict=True) if keep for part in note.split("; "))
    return {reason: parts[reason] for reason in cleaning.REASONS if parts[reason]}


def _cropped(image: np.ndarray, detector: Detector, settings: PrepareSettings) -> list[tuple[np.ndarray | None, str]]:
    """(face, box as text) of each face to take from a photograph; the whole picture and "" where there is none."""
    found = sorted(detector.detect(image), key=lambda each: -each.area_px)
    if not found:
        return [(image, "")]
    return [
        (crop_box(image, each.box_xyxy_px, settings.margin), " ".join(str(round(edge)) for edge in each.box_xyxy_px))
        for each in (found if settings.faces == "all" else found[:1])
    ]


def _shape_problem(pixels: np.ndarray) -> tuple[str, str]:
    height, width = pixels.shape[:2]
    if min(height, width) < cleaning.MIN_SIDE_PX or max(height, width) > cleaning.MAX_ASPECT * min(height, width):
        return "wrong_shape", f"{width}x{height} pixels"
    return "", ""


def _label_map(table: SourceTable, text: str) -> dict[str, str | None]:
    """From each of the source's labels to its label in the data set; None: dropped."""
    mapping = parse_label_map(text)
    # `disgust=angry` means the class "anger" of a set that has one: two names for one emotion would be two classes.
    mapping = {
        name: canonical(new) if new and new not in table.labels and canonical(new) in table.labels else new
        for name, new in mapping.items()
    }
    label_map = resolve_label_map(mapping, table.labels)
    targets = [new for new in label_map.values() if new]
    names = canonical_names(targets)
    return {name: new and names[new] for name, new in label_map.items()}


def _protected(rows: pd.DataFrame, table: SourceTable, settings: PrepareSettings) -> np.ndarray:
    """Rows in which cleaning only notes what it finds. bool (n,)."""
    if settings.clean_splits == "all" or settings.split == "random":
        return np.zeros(len(rows), bool)
    if settings.clean_splits == "auto" and not table.official_splits:
        return np.zeros(len(rows), bool)
    return rows["split"].isin(("validation", "test")).to_numpy()


def _splits(
    rows: pd.DataFrame,
    kept: np.ndarray,
    table: SourceTable,
    features: cleaning.Features,
    settings: PrepareSettings,
    tell: Callable[[str], None],
) -> np.ndarray:
    """The split of each row: the source's own, or made here for the kept rows. str (n,).

    rows: label, split, source, the groups, and the reason of each dropped one.
    """
    if unknown := [name for name in settings.split_by if name != "label" and name not in table.group_columns]:
        has = ", ".join(table.group_columns) or "no group column"
        raise ConfigError(f"--split-by names {unknown[0]!r}, which this source does not have; it has {has}")
    found = rows["split"].to_numpy(object)
    without = kept & (found == "")
    own = set(found[kept]) - {""}
    if own and without.any():
        raise DataError(
            f"{without.sum()} rows name no split, others do (first without: {rows['source'][int(np.argmax(without))]}); "
            "fill in the split column, or use --split random"
        )
    train, validation, _ = settings.fractions
    if not own or own == {"train"}:
        chosen, fractions = kept, settings.fractions
        if own:
            tell("the source has a train split only; it was split into train, validation and test")
    elif own == {"train", "test"} and validation > 0:
        chosen, fractions = kept & (found == "train"), (train, validation, 0.0)
        tell(f"the source has no validation split; {validation / (train + validation):.0%} of train became validation")
    else:
        if idle := _idle_for_own_splits(settings, own):
            tell(f"the source's own splits were kept, so {idle} changed nothing; --split random makes new ones")
        return found
    rest = rows[chosen]
    splits.check_classes(rest["label"], tell, rows[~kept].groupby("label")["reason"].agg(_in_words).to_dict())
    smallest = int(np.ceil(1 / min(part for part in fractions if part > 0)))
    strata = splits.strata_of(rest["label"], [rest[name] for name in settings.split_by if name != "label"], smallest, tell)
    found[chosen] = splits.stratified_split(strata, fractions, settings.seed, _sides(rest, features.digests[chosen]))
    for remark in splits.left_empty(found[chosen], fractions):
        tell(remark)
    return found


def _idle_for_own_splits(settings: PrepareSettings, own: Collection[str]) -> str:
    """The flags, other than at their defaults, that say how to split and were not needed: the source has the splits `own`."""
    names = ["split_by"]
    if own != {"train", "test"}:  # else a part of 0 for validation is why none was made
        names.append("fractions")
    if settings.source != "synthetic":  # whose seed draws the faces
        names.append("seed")
    defaults = PrepareSettings("synthetic")
    return " and ".join(_flag(name) for name in names if getattr(settings, name) != getattr(defaults, name))


def _in_words(reasons: Iterable[str]) -> str:
    """How many rows were dropped for each reason, most first: "unreadable 12, duplicate 3"."""
    return ", ".join(f"{reason} {count}" for reason, count in Counter(filter(None, reasons)).most_common())


def _sides(rows: pd.DataFrame, digests: np.ndarray) -> np.ndarray | None:
    """What has to stay on one side: an identity, the faces of one photograph, copies of a picture. None: nothing has to."""
    pairs = []
    for values in (rows["identity"].to_numpy(str) if "identity" in rows else None, rows["source"].to_numpy(str), digests):
        if values is not None:
            numbers = np.unique(values, return_inverse=True)[1].reshape(-1)
            order = np.argsort(numbers, kind="stable")
            linked = (numbers[order[1:]] == numbers[order[:-1]]) & (values[order[1:]] != (0 if values is digests else ""))
            pairs.append(np.stack([order[:-1][linked], order[1:][linked]], axis=1))
    together = np.concatenate(pairs)
    return cleaning.connected(len(rows), together).astype(str) if len(together) else None


def _near_copies(sides: np.ndarray, kept: np.ndarray, hashes: np.ndarray, copies: np.ndarray, dropped: Collection[str]) -> int:
    """How many kept faces of validation and test have near copies in another split; not looked for where copies are to stay.

    Only told, since figures of a data set are compared by its rows. After --drop near_duplicate what is left of them is in rows
    that are protected, and noted there.
    """
    if "near_duplicate" in dropped or "leakage" not in dropped:
        return 0
    near = cleaning.near_groups(hashes, copies, kept)
    return int((cleaning.near_copies_across(near, copies, sides, kept) & (sides != "train")).sum())


def _shared_persons(rows: pd.DataFrame) -> int:
    """How many identities have faces in more than one split."""
    if "identity" not in rows:
        return 0
    return int((rows[rows["identity"] != ""].groupby("identity")["split"].nunique() > 1).sum())


def _counts(outer: Any, inner: Any, order: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """{inner: {outer: n}}, without zeros; the outer names in the order given."""
    pairs = Counter(zip(inner, outer, strict=True))
    inner_names = [name for name in (*SPLITS, *cleaning.REASONS) if any(pair[0] == name for pair in pairs)]
    return {name: {each: pairs[name, each] for each in order if pairs[name, each]} for name in inner_names}


def _check_same(present: FaceDataset, settings: PrepareSettings, fingerprint: str) -> None:
    """Raise DataError unless the data set at `out` was made with these settings from this source."""
    theirs, ours = present.info.get("settings", {}), settings.to_dict()
    different = [each.name for each in fields(settings) if each.name in ours and theirs.get(each.name) != ours[each.name]]
    if different:
        name = different[0]
        raise DataError(
            f"{present.path} was prepared with other settings: {_flag(name)} was {theirs.get(name)!r}, now {ours[name]!r}"
            f"{f' (and {len(different) - 1} more)' if len(different) > 1 else ''}; choose another --out, or --overwrite"
        )
    if present.info.get("source_fingerprint") != fingerprint:
        raise DataError(f"{present.path} was prepared from these files before they changed; choose another --out, or --overwrite")


def _flag(name: str) -> str:
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def _choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"unknown {flag} {value!r}; choose from {', '.join(choices)}")


def _between(flag: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{flag} is from {low} to {high}, got {value}")
