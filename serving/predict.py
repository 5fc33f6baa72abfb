"""Recognize expressions in picture or video files, with one model or several together.

python -m serving.predict photo.jpg
python -m serving.predict photos/ 'more/*.png' --recursive --csv faces.csv --json faces.json --draw annotated
python -m serving.predict photo.jpg --model saved_models/one --model saved_models/two --combine vote
python -m serving.predict faces/ --crop none
python -m serving.predict film.mp4 --csv rows.csv --draw annotated --report film.html

A video run that was stopped goes on from where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import json
import os
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fer_keras import cli
from fer_keras.data.images import IMAGE_SUFFIXES
from fer_keras.detectors import DETECTORS
from fer_keras.errors import ConfigError, DataError
from fer_keras.files import alone, file_to_write, naming, nearest_there, writing_whole
from fer_keras.inference.joint import WAYS, JointRecognizer
from fer_keras.runtime import RUNTIMES, choose_runtime
from serving import outputs, videos
from serving.model_paths import DEFAULT_MODEL, find_models
from serving.pictures import Picture, Result, find_pictures, predict_pictures, real

if TYPE_CHECKING:
    from fer_keras.detectors import Detector
    from fer_keras.inference.analyzer import Analyzer

DETECTOR = "mtcnn"
JPEG_QUALITY = 92
#: Endings that drawn copies may have; the first is given to what has another.
PICTURE_COPIES = (".png", ".jpg", ".jpeg")
VIDEO_COPIES = (".mp4",)
#: Drawn videos that are locked: a process may have so many files open at once, on macOS 256. Of more the first are, which
#: tells of two runs on one folder.
LOCKED_COPIES = 100
#: What systems say of a disk, or a user's share of one, on which there is no room.
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def build_parser() -> cli.CommandParser:
    """The command line of `python -m serving.predict`."""
    parser = cli.CommandParser(prog="python -m serving.predict", description=__doc__)
    parser.add_argument(
        "paths", nargs="+", type=_name, metavar="PATH", help="pictures or videos, folders, or patterns such as 'photos/*.jpg'"
    )
    parser.add_argument(
        "--recursive", action="store_true", help="search folders inside folders too, and what links to folders lead to"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="MODEL",
        help=f"an exported model, a folder or a name in saved_models (repeatable; default {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--combine", choices=WAYS, default="mean", help="how several models answer together (default %(default)s)"
    )
    parser.add_argument(
        "--weights",
        type=_numbers,
        metavar="W,W,...",
        help="with --combine weighted: one for each model; default: by the accuracies they were exported with",
    )
    parser.add_argument("--crop", choices=("auto", "none"), default="auto", help="none: each picture is a face already")
    parser.add_argument("--detector", choices=DETECTORS, help=f"what finds the faces (default {DETECTOR})")
    parser.add_argument("--min-face", type=cli.positive_int, metavar="PX", help="smallest face looked for, in pixels")
    parser.add_argument(
        "--runtime", choices=("auto", *RUNTIMES), default="auto", help="what runs the models (default %(default)s)"
    )
    parser.add_argument("--csv", type=_name, metavar="FILE", help="write a table, one line a face (of a video: a face and frame)")
    parser.add_argument("--json", type=_name, metavar="FILE", help="pictures: write everything, probabilities of each model too")
    parser.add_argument("--draw", type=_name, metavar="DIR", help="write a copy of each picture or video with boxes and labels")
    parser.add_argument("--only", choices=("pictures", "videos"), help="where folders have both, which to take")
    video = parser.add_argument_group("videos")
    video.add_argument("--parquet", type=_name, metavar="FILE", help="write the table as Parquet (needs pyarrow)")
    video.add_argument("--report", type=_name, metavar="FILE", help="write a page (HTML) with the timeline of each person")
    video.add_argument("--every", type=cli.positive_int, metavar="N", help="analyse each Nth frame only (default 1)")
    video.add_argument(
        "--detect-every", type=_seconds, metavar="S", help="look for new faces each S seconds (default 0.2; 0: each frame)"
    )
    video.add_argument(
        "--smoothing",
        type=_seconds,
        metavar="S",
        help="average probabilities over about S seconds, and keep a label until another is ahead (default 0.5; 0: neither)",
    )
    video.add_argument("--restart", action="store_true", help="begin anew instead of going on with what a stopped run left")
    return parser


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got an empty one")
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"expected 0 to 3600 seconds, got {text}")
    return value


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 where a picture or video could be read, else 2."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    if args.weights is not None and args.combine != "weighted":
        raise ConfigError("--weights are for --combine weighted")
    unread: list[str] = []
    others: Counter[str] = Counter()
    files, of_videos = _find(args, unread, others)
    _check_options(args, of_videos)
    args.detector = args.detector or DETECTOR
    copies = plan_copies(files, Path(args.draw), VIDEO_COPIES if of_videos else PICTURE_COPIES) if args.draw else {}
    _check_outputs(args, files, copies)
    if args.draw:
        outputs.DrawnCopies(Path(args.draw)).refuse_strangers(copies.values())
    paths = find_models(args.model)
    if args.parquet:
        videos.check_parquet()
    videos.quiet_decoder()
    if choose_runtime(args.runtime) == "tensorflow":
        cli.import_tensorflow()
    from fer_keras.detectors import create_detector
    from fer_keras.inference.recognizer import Recognizer

    recognizer = JointRecognizer([Recognizer(path, runtime=args.runtime) for path in paths.values()], args.combine, args.weights)
    detector = create_detector(args.detector, args.min_face) if args.crop == "auto" else None
    code = (_videos if of_videos else _pictures)(files, recognizer, detector, copies, args)
    if unread:
        print(f"{_count(len(unread), 'folder')} could not be read; the warnings above say why")
    if others:
        kinds = ", ".join(f"{outputs.shown(suffix)} {count}" for suffix, count in others.most_common(5))
        print(f"{_count(others.total(), 'file')} of other kinds in the folders skipped: {kinds}")
    return code


def _find(args: argparse.Namespace, unread: list[str], others: Counter[str]) -> tuple[list[Picture], bool]:
    """The files to read, and whether they are videos; never both, since their tables have other columns.

    unread: is given the folders that can't be read, which are told. others: how many other files the folders have.
    """

    def tell(error: OSError) -> None:
        unread.append(error.filename)
        print(f"warning: {outputs.shown(error.filename)} can't be read: {error.strerror}", file=sys.stderr)

    suffixes, what = {
        None: ((*IMAGE_SUFFIXES, *videos.VIDEO_SUFFIXES), "picture or video"),
        "pictures": (IMAGE_SUFFIXES, "picture"),
        "videos": (videos.VIDEO_SUFFIXES, "video"),
    }[args.only]
    but = Path(args.draw) if args.draw else None
    files = find_pictures(args.paths, args.recursive, suffixes, what, but, tell, others)
    if args.only is not None:
        # A file that is named itself is taken whatever it is called, unless it is called like the other kind.
        others = videos.VIDEO_SUFFIXES if args.only == "pictures" else IMAGE_SUFFIXES
        files = [file for file in files if not file.path.name.lower().endswith(others)]
        if not files:
            raise DataError(f"--only {args.only}, but there is no {what} in {', '.join(args.paths)}")
        return files, args.only == "videos"
    films = [file for file in files if videos.is_video(file.path)]
    if films and len(films) < len(files):
        raise ConfigError(
            f"{_count(len(files) - len(films), 'picture')} and {_count(len(films), 'video')} give different tables; run once "
            "with --only pictures and once with --only videos"
        )
    return files, bool(films)


def _check_options(args: argparse.Namespace, of_videos: bool) -> None:
    """Options that would be without effect are refused."""
    if of_videos:
        if args.json:
            raise ConfigError("--json is for pictures; of a video write --csv or --parquet")
        if args.crop == "none":
            raise ConfigError("--crop none is for pictures that are faces already; in a video faces are looked for")
        return
    if args.crop == "none" and args.detector:
        raise ConfigError("--detector is for --crop auto; with --crop none no face is looked for")
    if args.crop == "none" and args.min_face:
        raise ConfigError("--min-face is for --crop auto; with --crop none no face is looked for")
    for option in ("parquet", "report", "every", "detect_every", "smoothing", "restart"):
        if getattr(args, option) not in (None, False):
            raise ConfigError(f"--{option.replace('_', '-')} is for videos, and {args.paths[0]} is none")


def _check_outputs(args: argparse.Namespace, files: Sequence[Picture], copies: dict[Path, Path]) -> None:
    """What would be in the way of the outputs is told before anything is computed."""
    taken: dict[Path, str] = {}
    if args.draw:
        _check_folder("--draw", Path(args.draw))
    for copy in copies.values():
        place = file_to_write(copy)
        taken.update(dict.fromkeys((place, *place.parents), "--draw"))
    for option in ("csv", "json", "parquet", "report"):
        name = getattr(args, option)
        if not name:
            continue
        target = Path(name)
        if target.is_dir():
            raise ConfigError(f"{target} is a folder; --{option} names a file")
        _check_folder(f"--{option}", file_to_write(target).parent)
        if any(real(target) == real(file.path) for file in files):
            kind = "videos" if videos.is_video(target) else "pictures"
            raise ConfigError(f"{target} is one of the {kind} and would be overwritten; name another file")
        if real(target) in taken:
            raise ConfigError(f"{taken[real(target)]} and --{option} name the same file {target}; give them different ones")
        taken[real(target)] = f"--{option}"


def _check_folder(option: str, folder: Path) -> None:
    """Raise ConfigError where nothing can be written below a folder, which may not be there yet; leaves nothing behind."""
    there = nearest_there(folder)
    if os.path.exists(there) and not os.path.isdir(there):
        raise ConfigError(f"{option} names a folder, {there} is a file")
    try:
        # Permissions do not tell: some file systems, such as /proc, let nobody make anything.
        tempfile.TemporaryDirectory(prefix="fer-keras-", dir=there).cleanup()
    except OSError as error:
        raise ConfigError(f"{option} can't be written: nothing can be made in {there}; name another folder") from error


def plan_copies(pictures: Sequence[Picture], folder: Path, suffixes: tuple[str, ...] = PICTURE_COPIES) -> dict[Path, Path]:
    """Where the drawn copy of each picture goes: picture path -> file below `folder`.

    The folders below a folder that was named are kept; of two that would have one name the second gets a number, but none gets
    the name that another has already. suffixes: endings that stay; another becomes the first of them.
    Raises ConfigError where a copy would take the place of a picture that is read.
    """
    originals = {real(picture.path) for picture in pictures}
    taken: dict[Path, Path] = {}  # target -> picture path
    for picture in pictures:
        if picture.path.suffix.lower() in suffixes:
            taken.setdefault(folder / picture.relative, picture.path)
    planned = {path: target for target, path in taken.items()}
    for picture in pictures:
        if picture.path not in planned:
            suffix = picture.path.suffix if picture.path.suffix.lower() in suffixes else suffixes[0]
            plain = folder / picture.relative.with_suffix(suffix)
            target, number = plain, 1
            while target in taken:
                number += 1
                target = plain.with_stem(f"{plain.stem}-{number}")
            taken[target] = picture.path
            planned[picture.path] = target
    for target in taken:
        if real(target) in originals:
            kind = "video" if videos.is_video(target) else "picture"
            raise ConfigError(f"--draw {folder} would write over the {kind} {target}; name another folder")
    return planned


def _pictures(
    pictures: Sequence[Picture],
    recognizer: JointRecognizer,
    detector: object | None,
    copies: dict[Path, Path],
    args: argparse.Namespace,
) -> int:
    from tqdm import tqdm

    if args.csv and (state := Path(f"{file_to_write(Path(args.csv))}.unfinished.json")).exists():
        raise ConfigError(
            f"{state.with_suffix('.csv')} has what a command over videos did not finish, and pictures would take its place; "
            "run that one again to finish it, or name another file"
        )
    counts: Counter[str] = Counter(pictures=0, faces=0, without_face=0, unreadable=0)
    about = {"crop": args.crop, "detector": args.detector if detector else None}
    with contextlib.ExitStack() as stack:
        # Who ends it by `kill` or `timeout` wants the rows as much as who types Ctrl-C. A run over films goes on from its files.
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        writers: dict[str, outputs.CsvWriter | outputs.JsonWriter] = {}
        files: dict[str, IO[str]] = {}
        drawn = outputs.DrawnCopies(Path(args.draw)) if args.draw else None
        if args.csv:
            files[args.csv] = stack.enter_context(writing_whole(args.csv, text=True))
            writers[args.csv] = outputs.CsvWriter(files[args.csv], recognizer)
        if args.json:
            files[args.json] = stack.enter_context(writing_whole(args.json, text=True))
            writers[args.json] = outputs.JsonWriter(files[args.json], recognizer, about)
        print(outputs.HEADER)
        progress = stack.enter_context(tqdm(total=len(pictures), unit="picture", disable=None, leave=False))
        try:
            for result in predict_pictures(pictures, recognizer, detector, keep_pixels=bool(copies)):
                for line in outputs.lines_of(result, recognizer):
                    tqdm.write(line, file=sys.stdout)
                for name, writer in writers.items():
                    with naming(name):
                        writer.add(result)
                if drawn and result.pixels is not None:
                    copy = copies[result.picture.path]
                    drawn.note(copy)
                    _draw(result, recognizer, copy)
                counts["pictures"] += 1
                counts["faces"] += len(result.faces)
                counts["unreadable"] += result.error is not None
                counts["without_face"] += result.error is None and not result.faces
                progress.update()
        except (KeyboardInterrupt, OSError):  # of the system: a full disk, say
            progress.close()
            if counts["pictures"]:  # hours of work, perhaps
                done = f"stopped after {counts['pictures']} of {len(pictures)} pictures"
                for name, writer in writers.items():
                    part = _keep_rows(files[name], writer, counts, Path(f"{name}.unfinished{Path(name).suffix}"))
                    print(f"{done}; their rows are in {part}", file=sys.stderr)
            raise
        for name, writer in writers.items():
            if isinstance(writer, outputs.JsonWriter):
                with naming(name):
                    writer.finish(counts)
    print(_summary(counts))
    for name in filter(None, (args.csv, args.json, args.draw)):
        print(f"written: {name}")
    if counts["unreadable"] == counts["pictures"]:
        raise DataError(f"no picture could be read ({counts['pictures']} tried); the lines above say why")
    return 0


def _keep_rows(file: IO[str], writer: outputs.CsvWriter | outputs.JsonWriter, counts: Counter[str], part: Path) -> Path:
    """Give the name `part` to what is written and not finished, up to its last whole line; needs no room, as on a full disk."""
    with contextlib.suppress(OSError):  # what finds no room is lost
        if isinstance(writer, outputs.JsonWriter):
            writer.finish(counts)
    with contextlib.suppress(OSError):
        file.close()
    with open(file.name, "rb+") as written:
        written.truncate(written.read().rfind(b"\n") + 1)
    os.replace(file.name, part)
    return part


def _summary(counts: Counter[str]) -> str:
    parts = [f"{_count(counts['faces'], 'face')} in {_count(counts['pictures'], 'picture')}"]
    if counts["without_face"]:
        parts.append(f"{counts['without_face']} without a face")
    if counts["unreadable"]:
        parts.append(f"{counts['unreadable']} could not be read")
    return "; ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _videos(
    files: Sequence[Picture],
    recognizer: JointRecognizer,
    detector: Detector,
    copies: dict[Path, Path],
    args: argparse.Namespace,
) -> int:
    from fer_keras.inference.analyzer import Analyzer

    chosen = {"smoothing_s": args.smoothing, "detect_every_s": args.detect_every}
    analyzer = Analyzer(recognizer, detector, **{name: value for name, value in chosen.items() if value is not None})
    every = args.every or 1
    with contextlib.ExitStack() as stack:
        base = args.csv or args.parquet or args.report or (args.draw and Path(args.draw) / "faces")
        if not base:  # nothing is kept, so there is nothing to go on with
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fer-keras-"))) / "faces"
        settings = _settings_of(files, recognizer, detector, analyzer, args)
        lock = f"{base}.unfinished.lock"
        stack.enter_context(alone(lock, f"another process is writing {base}; wait for its end or name another file"))
        parts = {copy.with_name(f".{copy.stem}.part.lock"): copy for copy in copies.values()}
        for part, copy in itertools.islice(parts.items(), LOCKED_COPIES):
            stack.enter_context(alone(part, f"another process is drawing {copy}; wait for its end or name another folder"))
        table = videos.GrowingTable(
            Path(base), recognizer.labels, settings, [outputs.shown(file.path) for file in files], restart=args.restart
        )
        stack.callback(table.close)
        if table.goes_on:
            print(
                f"going on with {table.path}: at frame {table.frame} of {outputs.shown(files[table.video].path)}"
                if table.video < len(files)
                else f"going on with {table.path}: all frames are analysed"
            )
        try:
            for _ in videos.analyse_videos(files, analyzer, table, every):
                pass
            undrawn = _finish_videos(files, table, recognizer, copies, args)
        except (KeyboardInterrupt, OSError):  # of the system: a full disk, say
            if args.csv or args.parquet or args.report or args.draw:
                print(f"the rows so far are in {table.path}; the same command goes on from there", file=sys.stderr)
            raise
        read = [facts for facts in table.facts if facts.frames]
        table.finish()
    drawn = args.draw if undrawn < len(read) or not read else None
    for name in filter(None, (args.csv, args.parquet, args.report, drawn)):
        print(f"written: {name}")
    if undrawn:
        print(f"{_count(undrawn, 'video')} could not be drawn; the warnings above say why")
    if not read:
        raise DataError(f"no video could be read ({len(files)} tried); the lines above say why")
    if undrawn == len(read):
        raise DataError(f"no video could be drawn ({len(read)} tried); the warnings above say why")
    return 0


def _settings_of(
    files: Sequence[Picture],
    recognizer: JointRecognizer,
    detector: Detector,
    analyzer: Analyzer,
    args: argparse.Namespace,
) -> dict[str, object]:
    """All that rows depend on, as JSON values: a table goes on only where all of it is the same."""
    import hashlib

    known = [json.dumps(dict(each.metadata), sort_keys=True, default=str).encode() for each in recognizer.recognizers]
    return {
        "videos": [[outputs.shown(real(file.path)), *_size_and_time(file.path)] for file in files],
        "models": [
            [each.name, each.runtime, hashlib.sha256(text).hexdigest()]
            for each, text in zip(recognizer.recognizers, known, strict=True)
        ],
        "combine": recognizer.how,
        "weights": None if recognizer.weights is None else [float(weight) for weight in recognizer.weights],
        "detector": args.detector,
        "min_face": args.min_face,
        "every": args.every or 1,
        "detect_every": analyzer.detect_every_s,
        "smoothing": analyzer.smoothing_s,
    }


def _size_and_time(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:  # a link of a folder that leads nowhere, say; it is told where the video is to be read
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _finish_videos(
    files: Sequence[Picture],
    table: videos.GrowingTable,
    recognizer: JointRecognizer,
    copies: dict[Path, Path],
    args: argparse.Namespace,
) -> int:
    """What is made from the table once it is whole. Returns how many videos could not be drawn, which are told."""
    from fer_keras.files import write_whole
    from serving import video_report

    every, labels = args.every or 1, recognizer.labels
    if args.csv:
        table.publish()
    summaries = video_report.summarise(table.rows(), table.facts)
    for summary in summaries:
        print("\n".join(video_report.lines_of(summary)))
    if args.report:
        about = [
            f"Model: {recognizer.name}"
            + (f", combined by {recognizer.how}" if len(recognizer.recognizers) > 1 else "")
            + f"; faces found by {args.detector}; "
            + ("every frame" if every == 1 else f"one frame in {every}")
            + " analysed."
        ]
        write_whole(args.report, video_report.page_of(summaries, labels, about))
    if args.parquet:
        with naming(args.parquet):
            videos.write_parquet(table, Path(args.parquet))
    undrawn = 0
    if copies:  # last, since it takes longest
        for file, facts, rows in zip(files, table.facts, table.rows(), strict=True):
            if facts.frames:
                undrawn += not _drawn(file.path, rows, labels, copies[file.path], args)
    return undrawn


def _drawn(path: Path, rows: Iterable[videos.FrameRows], labels: Sequence[str], copy: Path, args: argparse.Namespace) -> bool:
    """Draw a video; False where that can't be done, which is told. Raises OSError where the disk is full."""
    try:
        with naming(copy):
            outputs.DrawnCopies(Path(args.draw)).note(copy)
            videos.draw_video(path, rows, labels, copy, args.every or 1)
    except Exception as error:  # whatever a film is like, it must not keep the others from being drawn
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        if args.debug:
            traceback.print_exc()
        print(f"warning: {outputs.shown(path)} could not be drawn: {cli.one_line(error)}", file=sys.stderr)
        return False
    return True


def _draw(result: Result, recognizer: JointRecognizer, target: Path) -> None:
    import io

    from PIL import Image

    from fer_keras.files import write_whole
    from serving.drawing import draw_faces, label_colour

    texts, colours = [], []
    for face in result.faces:
        label, confidence = outputs.top(face.probabilities, recognizer.labels)
        uncertain = confidence < recognizer.uncertain_below
        texts.append(f"{label}{'?' if uncertain else ''} {confidence:.0%}")
        colours.append(label_colour(recognizer.labels.index(label), uncertain))
    drawn = Image.fromarray(draw_faces(result.pixels, [face.box_xyxy_px for face in result.faces], texts, colours))
    buffer = io.BytesIO()
    if target.suffix.lower() == ".png":
        drawn.save(buffer, "PNG")
    else:
        drawn.save(buffer, "JPEG", quality=JPEG_QUALITY)
    write_whole(target, buffer.getvalue())


if __name__ == "__main__":
    raise SystemExit(main())
