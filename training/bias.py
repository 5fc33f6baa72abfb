"""Find out for whom a model works less well: figures by group of people, how sure they are, and what the data itself holds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.cli import CommandParser, positive_int, run, words
from fer_keras.data.dataset import UNKNOWN, FaceDataset
from fer_keras.detectors import DETECTORS, Detector, create_detector
from fer_keras.errors import ConfigError, DataError
from fer_keras.evaluation import fairness
from fer_keras.evaluation.ordering import in_order
from fer_keras.evaluation.resampling import holm
from fer_keras.files import write_json, write_whole
from training import scoring
from training.evaluate import PROTOCOL_MEANING, open_models
from training.scoring import ScoredFaces, ScoredModel

if TYPE_CHECKING:
    import pandas as pd


def audit_bias(
    models: Sequence[ScoredModel],
    dataset: FaceDataset,
    by: Sequence[str],
    *,
    split: str | None = None,
    protocol: str | None = None,
    min_n: int = fairness.MIN_N,
    min_cell: int = fairness.MIN_CELL,
    repeats: int = 1000,
    seed: int = 0,
    detector: str | None = None,
    groups_note: str | None = None,
    out: str | os.PathLike | None = None,
    batch_size: int = scoring.BATCH_SIZE,
    figures: bool = True,
) -> dict[str, Any]:
    """Judge models and data by group and write bias.json, CSV files and, with `figures`, PNGs and report.html.

    by: group columns of the data set. split, protocol: as in `training.evaluate`; split "all" takes every face. min_n, min_cell,
    repeats, seed: as in `fairness.audit`. detector: also count, by group, in how many of the source photographs it finds no face.
    groups_note: where the group labels come from, in the words of the user. out: None takes a folder in the run, or
    in reports/. Returns what bias.json holds; "out" says where the report lies.
    Raises ConfigError for columns that are not there, DataError where groups can't be compared, ModelError for other labels.
    """
    check_columns(dataset, by)
    fairness.check_settings(min_n, min_cell, repeats, seed)
    faces = scoring.choose_faces(models, dataset, split, protocol)
    for model in models:
        scoring.label_positions(model, faces)  # before anything is computed: labels may not fit
    groups = {column: dataset.manifest[column].to_numpy(str)[faces.rows] for column in by}
    notes = [*(note for model in models for note in scoring.fit_notes(model, faces)), *scoring.face_notes(faces, split)]
    notes += _absent_groups(dataset, faces, groups)
    labels = list(dict.fromkeys([*dataset.labels, *(label for model in models for label in model.labels)]))
    # What can't be compared is told before the models are run.
    fairness.check_groups(groups)
    probabilities = {model.key: _probabilities(model, faces, labels, batch_size) for model in models}
    identities = dataset.manifest["identity"].to_numpy(str)[faces.rows] if "identity" in dataset.manifest else None
    result = fairness.audit(
        faces.truth,
        probabilities,
        labels,
        groups,
        clusters=identities,
        min_n=min_n,
        min_cell=min_cell,
        repeats=repeats,
        seed=seed,
        progress=_Progress(),
    )
    detected, used_detector, about_detector = _detection(dataset, by, detector, min_n, repeats, seed)
    calibrated = [f"{model.key} {model.temperature:.3f}" for model in models if model.temperature is not None]
    if calibrated:
        notes.append(f"calibration is judged after the temperature that the model was exported with ({', '.join(calibrated)})")
    from fer_keras.evaluation import fairness_report

    data_bias = _dataset_bias(dataset, faces, groups)
    found = [*fairness_report.findings(result), *fairness_report.dataset_findings(data_bias)]
    if detected:
        found += fairness_report.detector_findings(detected, used_detector)
    folder = Path(out) if out is not None else scoring.report_folder(models, faces, "bias", by)
    result = {
        "findings": found,
        "limits": fairness_report.LIMITS,
        "provenance": groups_provenance(dataset, by, groups_note),
        "notes": [*notes, about_detector],
        "data": {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "split": faces.split,
        "protocol": faces.protocol,
        "out": str(folder),
        **result,
        "dataset": data_bias,
        "detector": {"name": used_detector, "columns": detected} if detected else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bias.json", result)
    _write_tables(folder, result, faces, probabilities, groups)
    (folder / "report.html").unlink(missing_ok=True)  # one of an audit before
    for path in [path for name in _pictures(dataset) for path in folder.glob(name)]:
        path.unlink()
    if figures:
        _write_report(folder, result, faces, groups)
    return result


def _pictures(dataset: FaceDataset) -> list[str]:
    """Patterns of the PNGs that reports on a data set have."""
    kinds = ("distribution", "figures", "emotions", "confusions", "detector")
    return [f"{kind}-{column}{end}.png" for kind in kinds for column in dataset.group_columns for end in ("", "-*")]


def check_columns(dataset: FaceDataset, by: Sequence[str]) -> None:
    """Raise ConfigError where a column is not one of the data set's group columns, or is named twice."""
    if not by:
        raise ConfigError(f"--by names no column; {dataset.path} has {', '.join(dataset.group_columns) or 'no group column'}")
    for column in by:
        if column not in dataset.group_columns:
            has = f"it has {', '.join(dataset.group_columns)}" if dataset.group_columns else "it has no group column"
            to_do = f"prepare it with --columns {column}=COLUMN to add one"
            if f"{column}_group" in dataset.group_columns:
                to_do = f"groups of it are {column}_group"
            raise ConfigError(f"{dataset.path} has no group column {column!r}; {has}; {to_do}")
        if list(by).count(column) > 1:
            raise ConfigError(f"--by names {column} twice; name each column once")


def groups_provenance(dataset: FaceDataset, by: Sequence[str], note: str | None = None) -> list[str]:
    """Where the group labels come from, one sentence a column, and the user's own note."""
    settings = scoring.prepared_with(dataset)
    source = dataset.info.get("source", settings.get("source", ""))
    columns = settings.get("columns") or {}
    sentences = []
    for column in by:
        origin = columns.get(column)
        if source == "synthetic":
            sentences.append(f"{column}: an attribute that each drawn face was drawn with; known exactly, not judged by anybody")
        elif column == "age_group" and origin is None and "age" in columns:
            sentences.append(f"age_group: from the ages in column {columns['age']!r} of {_files(settings)}")
        elif origin is not None:
            sentences.append(f"{column}: column {origin!r} of {_files(settings)}")
        else:
            sentences.append(f"{column}: a column of {dataset.name}, which does not record where it comes from")
    if note:
        sentences.append(f"note: {note}")
    elif source != "synthetic":
        sentences.append("how these labels were made is not recorded; say it with --groups-note")
    return sentences


def _files(settings: Mapping[str, Any]) -> str:
    return " or ".join(Path(settings[name]).name for name in ("csv", "metadata") if settings.get(name)) or "the source"


def _absent_groups(dataset: FaceDataset, faces: ScoredFaces, groups: Mapping[str, np.ndarray]) -> list[str]:
    """A sentence for each column with groups that the data has, but the scored faces lack."""
    sentences = []
    for column, there in groups.items():
        every = set(dataset.manifest[column].to_numpy(str)[dataset.rows()]) - {UNKNOWN, ""}
        if absent := in_order(every - set(there)):
            sentences.append(f"no {faces.split} face has {column} {' or '.join(absent)}: nothing can be said about them")
    return sentences


def _probabilities(model: ScoredModel, faces: ScoredFaces, labels: Sequence[str], batch_size: int) -> np.ndarray:
    """Calibrated probabilities in the order of `labels`: float64 (n, k); a label that the model does not know has 0."""
    from fer_keras.evaluation.calibration import apply_temperature

    scores = scoring.predict_rows(model, faces.dataset, faces.rows, batch_size)
    if model.temperature is not None:
        scores = apply_temperature(scores, model.temperature)
    ordered = np.zeros((len(scores), len(labels)))
    ordered[:, [labels.index(label) for label in model.labels]] = scores
    return ordered


class _Progress:
    """Says on a terminal what is computed; nothing elsewhere."""

    def __call__(self, stage: str) -> None:
        from tqdm import tqdm

        with tqdm(desc=stage, bar_format="{desc}", disable=None, leave=False):
            pass


def _dataset_bias(dataset: FaceDataset, faces: ScoredFaces, groups: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """`fairness.dataset_bias` of the training faces (where there are any), of all, and of those that are scored."""
    rows = {name: dataset.rows(None if name == scoring.ALL else name) for name in ("train", scoring.ALL)}
    if not len(rows["train"]) or faces.split == scoring.ALL:
        del rows["train"]
    parts = {}
    for part, chosen in rows.items():
        columns = {column: dataset.manifest[column].to_numpy(str)[chosen] for column in groups}
        truth = dataset.label_indices[chosen]
        parts[f"{part} faces"] = {
            column: fairness.dataset_bias(truth, values, dataset.labels)
            for column, values in columns.items()
            if not np.isin(values, fairness.UNKNOWN).all()
        }
    if faces.split != scoring.ALL:
        parts[f"scored faces ({faces.split}, {faces.protocol})"] = {
            column: fairness.dataset_bias(faces.truth, values, dataset.labels) for column, values in groups.items()
        }
    return {part: found for part, found in parts.items() if found}


def _detection(
    dataset: FaceDataset, by: Sequence[str], detector: str | None, min_n: int, repeats: int, seed: int
) -> tuple[dict[str, Any], str, str]:
    """How often no face is found in a photograph, by group: results by column, the detector, and what was run or why it was not.

    Faces that the crop of `training.prepare` lost count here, though they are in no split: leaving them out would hide the
    misses.
    """
    settings, manifest = scoring.prepared_with(dataset), dataset.manifest
    used = settings.get("crop", "none")
    # Pictures that `training.synthesize` made have the source of one above them: they don't count.
    looked = (manifest["kept"] | (manifest["reason"] == "no_face")) & ~manifest["source"].duplicated()
    rows = np.flatnonzero(looked)
    if used != "none" and detector in (None, used):
        missed = manifest["box"].astype(str).to_numpy()[rows] == ""
        note = f"missed faces are those that {used} did not find when the data was prepared"
        return _misses(dataset, by, rows, missed, min_n, repeats, seed), used, note
    if detector is None:
        return {}, "", "no face detector was looked at: the data was prepared without one (--detector haar or mtcnn runs one)"
    root = next((settings[name] for name in ("images", "path") if settings.get(name)), None)
    paths = [Path(root) / name for name in manifest["source"].to_numpy(str)[rows]] if root else []
    there = np.array([path.is_file() for path in paths], bool)
    if not there.any():
        return {}, "", f"detector {detector} was not run: the source pictures of {dataset.name} are not there as files"
    missed, read = _run_detector(create_detector(detector), [path for path, is_file in zip(paths, there, strict=True) if is_file])
    note = f"detector {detector} was run on {int(read.sum())} source pictures"
    if unread := len(rows) - int(read.sum()):
        note += f"; {unread} more are not there or can't be read"
    return _misses(dataset, by, rows[there][read], missed[read], min_n, repeats, seed), detector, note


def _run_detector(detector: Detector, paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """bool (n,) no face was found, and bool (n,) the picture could be read."""
    from tqdm import tqdm

    from fer_keras.data.images import decode

    missed, read = np.zeros(len(paths), bool), np.zeros(len(paths), bool)
    for index, path in enumerate(tqdm(paths, desc="detector", unit="picture", disable=None, leave=False)):
        try:
            picture = decode(path, 3)
        except DataError:
            continue
        read[index], missed[index] = True, not detector.detect(picture)
    return missed, read


def _misses(
    dataset: FaceDataset, by: Sequence[str], rows: np.ndarray, missed: np.ndarray, min_n: int, repeats: int, seed: int
) -> dict[str, Any]:
    manifest = dataset.manifest
    found = {
        column: fairness.compare_shares(
            missed,
            manifest[column].to_numpy(str)[rows],
            labels=dataset.label_indices[rows],
            clusters=manifest["identity"].to_numpy(str)[rows] if "identity" in manifest else None,
            min_n=min_n,
            repeats=repeats,
            seed=seed,
        )
        for column in by
    }
    tested = [column for column in by if found[column]["p"] is not None]
    for column, corrected in zip(tested, holm(np.array([found[column]["p"] for column in tested])), strict=True):
        found[column] |= {"p_corrected": float(corrected), "shown": bool(corrected < fairness.ALPHA)}
    return found


def _write_tables(
    folder: Path,
    result: Mapping[str, Any],
    faces: ScoredFaces,
    probabilities: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
) -> None:
    import pandas as pd

    from fer_keras.evaluation import fairness_report
    from fer_keras.evaluation.report import column_names

    measures, pairs = fairness_report.dataset_frames(result["dataset"])
    tables = {
        "counts": fairness_report.counts_frame(result),
        "groups": fairness_report.groups_frame(result, intersections=False),
        "intersections": fairness_report.groups_frame(result, intersections=True),
        "gaps": fairness_report.gaps_frame(result),
        "parity": fairness_report.parity_frame(result),
        "confusions": fairness_report.confusions_frame(result),
        "dataset": measures,
        "npmi": pairs,
    }
    detected = result["detector"]
    tables["detector"] = fairness_report.detector_frame(detected["columns"]) if detected else pd.DataFrame()
    names = np.asarray(result["labels"], dtype=object)
    columns = column_names(groups, ("row", "true"), "group")
    tables["predictions"] = pd.DataFrame(
        {
            "row": faces.rows,
            **{columns[name]: values for name, values in groups.items()},
            "true": names[faces.truth],
            **{f"predicted by {key}": names[values.argmax(axis=1)] for key, values in probabilities.items()},
        }
    )
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        path.unlink(missing_ok=True)  # one of an audit before, which had something to tell
        if len(table):
            write_whole(path, table.to_csv(index=False, float_format="%.6f"))


def _write_report(folder: Path, result: Mapping[str, Any], faces: ScoredFaces, groups: Mapping[str, np.ndarray]) -> None:
    from fer_keras.evaluation import fairness_report as words
    from fer_keras.evaluation import report

    introduction = (
        f"{_faces(result['n'], faces.split)} of {faces.dataset.name} by {', '.join(groups)}; protocol {faces.protocol}: "
        f"{PROTOCOL_MEANING[faces.protocol]}. Seed {result['seed']}, {result['repeats']} bootstrap repeats."
    )
    top = report.paragraph_html(introduction) + _list_html(result["findings"]) + report.paragraph_html(words.LIMITS)
    top += "".join(report.paragraph_html(note, note=True) for note in result["notes"])
    sections = [("", top)]
    counts = report.table_html(words.counts_frame(result))
    marked = (
        f"Groups with fewer than {result['min_n']} faces are marked; recall is compared where a group has {result['min_cell']} "
    )
    sections.append(
        (
            "Who is there",
            _list_html(result["provenance"])
            + _distribution_html(folder, faces, groups)
            + report.paragraph_html(f"{marked}faces of an emotion or more.", note=True)
            + counts,
        )
    )
    sections.append(("The data", _dataset_html(result)))
    sections.append(
        (
            "Figures by group",
            report.table_html(words.summary_frame(result)) + report.paragraph_html(words.method(result), note=True),
        )
    )
    sections.append(
        (
            "Gaps",
            report.paragraph_html("Accuracy, macro F1 and calibration, and whatever else differs; gaps.csv has the rest.")
            + report.table_html(words.gaps_summary_frame(result)),
        )
    )
    for name in result["groupings"]:
        sections.append((f"By {name}", _grouping_html(folder, result, name)))
    sections.append(("Parity", _parity_html(result)))
    if result["detector"]:
        sections.append(("The face detector", _detector_html(folder, result["detector"])))
    title = f"Bias report: {', '.join(result['models'])} on {faces.dataset.name}"
    write_whole(folder / "report.html", report.html_page(title, sections))


def _faces(count: int, split: str) -> str:
    return f"{count} faces (all splits)" if split == scoring.ALL else f"{count} {split} faces"


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Column names as words, so that wide heads of tables can be wrapped."""
    names = {"cramers_v": "Cramer's V", "cramers_v_uncorrected": "Cramer's V uncorrected", "nmi": "NMI"}
    return frame.rename(columns=lambda name: names.get(name, name.replace("_", " ")))


def _list_html(sentences: Sequence[str]) -> str:
    from fer_keras.evaluation import report

    return "<ul>" + "".join(f"<li>{report.escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _distribution_html(folder: Path, faces: ScoredFaces, groups: Mapping[str, np.ndarray]) -> str:
    from fer_keras.evaluation import dataset_plots, plots, report

    parts = []
    names = [label for label in faces.dataset.labels if label in set(faces.true_names)]
    for column, values in groups.items():
        table = dataset_plots.count_table(faces.true_names, values, names)
        picture = plots.save_png(dataset_plots.plot_counts(table), folder / f"distribution-{column}.png")
        parts.append(report.image_html(picture, f"emotions by {column}", f"The scored faces by {column}"))
    return "\n".join(parts)


def _dataset_html(result: Mapping[str, Any]) -> str:
    from fer_keras.evaluation import fairness_report, report

    measures, pairs = fairness_report.dataset_frames(result["dataset"])
    explanation = (
        "Effective groups: exp(Shannon entropy), how many equally large groups the data is worth. Cramer's V: association of "
        "group and emotion, bias-corrected (Bergsma 2013), 0 to 1. NMI: normalised mutual information. NPMI, by group and "
        "emotion: -1 never together, 0 independent, 1 always together."
    )
    first = next(iter(result["dataset"]))
    parts = [report.table_html(_readable(measures)), report.paragraph_html(explanation, note=True)]
    for column in result["dataset"][first]:
        mine = pairs[(pairs["part"] == first) & (pairs["column"] == column)]
        table = mine.pivot(index="group", columns="emotion", values="npmi")
        table = table.loc[[*dict.fromkeys(mine["group"])], [*dict.fromkeys(mine["emotion"])]]
        parts.append(f"<h3>NPMI of {report.escape(column)} and emotion, {report.escape(first)}</h3>")
        parts.append(report.table_html(table.reset_index()))
    return "\n".join(parts)


def _grouping_html(folder: Path, result: Mapping[str, Any], name: str) -> str:
    from fer_keras.evaluation import fairness_plots, plots, report

    file = name.replace(fairness.JOIN, "-and-")
    models = {key: judged["groupings"][name]["groups"] for key, judged in result["models"].items()}
    files = scoring.file_names(models)
    overall = {key: judged["overall"]["accuracy"] for key, judged in result["models"].items()}
    drawn = [
        (
            f"figures-{file}.png",
            f"figures by {name} with 95% intervals",
            "Dotted: accuracy over all faces. Hollow and grey: too few faces to conclude from.",
            fairness_plots.plot_figures_by_group(models, overall),
        )
    ]
    for key, groups in models.items():
        drawn.append(
            (
                f"emotions-{file}-{files[key]}.png",
                f"{key}: recall and false positives of each emotion by {name}",
                f"{key}. Grey: fewer than {result['min_cell']} faces of the emotion.",
                fairness_plots.plot_emotions_by_group(groups, result["labels"], result["min_cell"]),
            )
        )
        drawn.append(
            (
                f"confusions-{file}-{files[key]}.png",
                f"{key}: confusion matrix of each group by {name}",
                f"{key}: confusion matrices, rows true, columns predicted, as shares of each row.",
                fairness_plots.plot_confusions_by_group(groups, result["labels"]),
            )
        )
    return "\n".join(
        report.image_html(plots.save_png(figure, folder / file_name), alt, caption) for file_name, alt, caption, figure in drawn
    )


def _parity_html(result: Mapping[str, Any]) -> str:
    from fer_keras.evaluation import fairness_report, report

    explanation = (
        "Each emotion against the rest (fairlearn's definitions). Demographic parity: how often the model says the emotion, "
        "which differs as soon as groups show it differently often. Equalised odds: the larger gap of recall and of false "
        "positives (difference 0 and ratio 1: none). A dash: too few faces. These are descriptions; what is more than chance "
        "stands under Gaps."
    )
    return report.paragraph_html(explanation) + report.table_html(_readable(fairness_report.parity_frame(result)))


def _detector_html(folder: Path, detector: Mapping[str, Any]) -> str:
    from fer_keras.evaluation import fairness_plots, fairness_report, plots, report

    parts = [report.table_html(fairness_report.detector_frame(detector["columns"]))]
    for column, found in detector["columns"].items():
        if found["groups"]:
            figure = fairness_plots.plot_shares_by_group(
                found["groups"], f"share of photographs in which {detector['name']} finds no face"
            )
            picture = plots.save_png(figure, folder / f"detector-{column}.png")
            parts.append(report.image_html(picture, f"missed faces by {column}"))
    return "\n".join(parts)


def summary_text(result: Mapping[str, Any]) -> str:
    """Two tables (figures by group, largest gaps) and the findings, for the terminal."""
    from fer_keras.evaluation import fairness_report

    scored = f"{_faces(result['n'], result['split'])} of {result['data']['name']}"
    form = {"index": False, "float_format": "{:.3f}".format, "na_rep": "-"}
    gaps = fairness_report.gaps_summary_frame(result)
    none = f"none can be told: nowhere do two groups have {result['min_n']} faces; give more faces, or a smaller --min-n"
    lines = [
        f"{scored}, protocol {result['protocol']}, seed {result['seed']}",
        "",
        "Figures by group (same mix: accuracy at the same mix of emotions)",
        fairness_report.summary_frame(result).to_string(**form),
        "",
        "Largest gaps between groups",
        gaps.to_string(**form) if len(gaps) else none,
        "",
        *(f"- {finding}" for finding in result["findings"]),
        *(f"note: {note}" for note in result["notes"]),
    ]
    return "\n".join(lines)


def build_parser() -> CommandParser:
    """The command line of `python -m training.bias`."""
    parser = CommandParser(
        prog="python -m training.bias",
        description=__doc__,
        epilog="examples:\n  python -m training.bias --run runs/my-run --by gender,age_group\n"
        "  python -m training.bias --model saved_models/ferplus-cnn --data data/lfw --by gender --split all --detector haar",
    )
    parser.add_argument(
        "--run", action="extend", nargs="+", default=[], metavar="RUN", help="run folders: best and final of each"
    )
    parser.add_argument(
        "--model", action="extend", nargs="+", default=[], metavar="NAME", help="exported models: names or folders"
    )
    parser.add_argument("--by", required=True, metavar="COLUMN,...", help="group columns; their intersections are judged too")
    scoring.add_face_options(
        parser,
        data="the one that the run was trained on",
        split="default: test, or validation where there is no test",
    )
    parser.add_argument(
        "--min-n",
        type=positive_int,
        default=fairness.MIN_N,
        metavar="N",
        help="faces a group needs to be compared (default %(default)s)",
    )
    parser.add_argument(
        "--min-cell",
        type=positive_int,
        default=fairness.MIN_CELL,
        metavar="N",
        help="faces of an emotion that a group needs for its recall to be compared (default %(default)s)",
    )
    parser.add_argument("--repeats", type=positive_int, default=1000, help="bootstrap repeats (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of bootstrap and permutations (default %(default)s)")
    parser.add_argument(
        "--detector", choices=DETECTORS, help="count by group in how many source photographs this detector finds no face"
    )
    parser.add_argument("--groups-note", metavar="TEXT", help="where the group labels come from, for the report")
    parser.add_argument("--json", metavar="FILE", help="also write bias.json to this file")
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the report; default: RUN/bias-SPLIT-PROTOCOL-by-COLUMNS, or in reports/"
    )
    parser.add_argument("--no-figures", action="store_true", help="only bias.json and CSV files")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    if not args.run and not args.model:
        raise ConfigError("no model to judge; name a run folder with --run, or an exported model with --model")
    by = words(args.by)
    scoring.runs_among(args.model)  # a wrong path is told before TensorFlow is loaded
    dataset = scoring.common_dataset([scoring.open_run(path) for path in args.run], args.data)
    check_columns(dataset, by)
    fairness.check_settings(args.min_n, args.min_cell, args.repeats, args.seed)
    result = audit_bias(
        open_models(args.run, args.model),
        dataset,
        by,
        split=args.split,
        protocol=args.protocol,
        min_n=args.min_n,
        min_cell=args.min_cell,
        repeats=args.repeats,
        seed=args.seed,
        detector=args.detector,
        groups_note=args.groups_note,
        out=args.out,
        batch_size=args.batch_size,
        figures=not args.no_figures,
    )
    print(summary_text(result))
    print(f"written: {Path(result['out']) / ('bias.json' if args.no_figures else 'report.html')}")
    if args.json:
        write_json(Path(args.json), result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
