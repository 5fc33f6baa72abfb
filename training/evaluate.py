"""Judge models on labelled faces: figures, plots, the worst mistakes, as HTML, CSV and JSON."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.cli import CommandParser, run
from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import ConfigError, DataError
from fer_keras.files import write_json, write_whole
from training import scoring
from training.scoring import ScoredFaces, ScoredModel

if TYPE_CHECKING:
    import pandas as pd

    from training.run_folder import RunFolder

WORST = 24  # mistakes shown in the report
PROTOCOL_MEANING = {
    "label": "every face by the label in the data set",
    "majority": "FER+'s official filter: faces on whose emotion more than half of the votes agree, single votes left out",
    "plurality": "faces by the emotion with strictly most votes, single votes left out",
    "fer2013": "every face by its original FER2013 label",
}


@dataclass(frozen=True)
class _Judged:
    """One model and what came out: truth int64 (n,) and probabilities float32 (n, k) in the order of its labels.

    folder: name of its part of the output folder.
    """

    model: ScoredModel
    folder: str
    truth: np.ndarray
    probabilities: np.ndarray
    figures: dict[str, Any]

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)


def evaluate_run(
    run: RunFolder,
    split: str | None = None,
    protocol: str | None = None,
    out: str | os.PathLike | None = None,
    data: str | os.PathLike | None = None,
    figures: bool = True,
) -> dict[str, Any]:
    """Judge the best and the final model of a run and write its report.

    split: None takes test, or validation where there is no test. protocol: None takes the data set's usual one.
    out: None takes RUN/evaluation-SPLIT-PROTOCOL. data: None takes the run's own data set.
    figures: draw plots and write report.html too.
    Returns what metrics.json holds; "out" says where the report lies.
    """
    dataset = scoring.common_dataset([run], data)
    models = scoring.run_models(run, scoring.finished_weights(run))
    return evaluate(models, dataset, split=split, protocol=protocol, out=out, figures=figures)


def evaluate(
    models: Sequence[ScoredModel],
    dataset: FaceDataset,
    *,
    split: str | None = None,
    protocol: str | None = None,
    out: str | os.PathLike | None = None,
    batch_size: int = scoring.BATCH_SIZE,
    figures: bool = True,
) -> dict[str, Any]:
    """Judge models on one split of a data set and write metrics.json, CSV files and, with `figures`, PNGs and report.html.

    Returns what metrics.json holds. Raises DataError where the split is empty, ModelError where labels do not fit.
    """
    from fer_keras.evaluation.calibration import apply_temperature, coverage_curve, no_temperature_note
    from fer_keras.evaluation.classification import classification_metrics
    from fer_keras.evaluation.paired import one_person_note

    faces = scoring.choose_faces(models, dataset, split, protocol)
    truths = [scoring.label_positions(model, faces) for model in models]  # before anything is computed: these may not fit
    notes = [*(note for model in models for note in scoring.fit_notes(model, faces)), *scoring.face_notes(faces, split)]
    folder = Path(out) if out is not None else scoring.report_folder(models, faces, "evaluation")
    folder.mkdir(parents=True, exist_ok=True)

    judged, people = [], scoring.identities(dataset, faces.rows)
    notes += one_person_note(people)
    folders = scoring.file_names(model.key for model in models)
    for model, truth in zip(models, truths, strict=True):
        probabilities = scoring.predict_rows(model, dataset, faces.rows, batch_size)
        temperature, fitted_on, why_not = _temperature(model, faces, probabilities, truth, batch_size)
        if why_not:
            notes.append(no_temperature_note(model.key, why_not))
        entry = classification_metrics(truth, probabilities, model.labels, temperature)
        about = {"labels": list(model.labels), "temperature_fitted_on": fitted_on, "parameters": model.parameters}
        told = probabilities if temperature is None else apply_temperature(probabilities, temperature)
        about |= {"coverage": coverage_curve(told, truth), "path": str(model.path)}
        about |= scoring.learnt_among(model, faces)
        over_people = scoring.identities_interval(probabilities.argmax(axis=1) == truth, people)
        about |= over_people
        for low, high in over_people.values():
            notes.append(
                f"{model.key}: faces of one person go together; where persons are drawn, not faces, the 95% interval of its "
                f"accuracy is {low:.3f} to {high:.3f}"
            )
        judged.append(_Judged(model, folders[model.key], truth, probabilities, {**entry, **about}))
    result = {
        "protocol": faces.protocol,
        "split": faces.split,
        "n": len(faces.rows),
        "labels": list(models[0].labels),
        "data": {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "notes": notes,
        "out": str(folder),
        "models": {entry.model.key: entry.figures for entry in judged},
    }
    write_json(folder / "metrics.json", result)
    for entry in judged:
        _write_tables(folder / entry.folder, entry, faces)
    (folder / "report.html").unlink(missing_ok=True)  # one of an evaluation before
    if figures:
        _write_report(folder, judged, faces, result)
    return result


def _temperature(
    model: ScoredModel, faces: ScoredFaces, probabilities: np.ndarray, truth: np.ndarray, batch_size: int
) -> tuple[float | None, str | None, str | None]:
    """The temperature of a model, in words what it was fitted on, and why it was not: then it is 1.

    Never fitted on the scored split, unless that is validation. None, None, None where there are no faces to fit it on.
    """
    from fer_keras.evaluation.calibration import temperature_if_any

    if model.run is None:
        return model.temperature, None if model.temperature is None else "validation faces when the model was exported", None
    same = scoring.is_own(model.run, faces.dataset)
    if same and faces.split == "validation":
        temperature, why_not = temperature_if_any(probabilities, truth)
        return temperature, None if why_not else "the validation faces that are scored here, so it flatters", why_not
    try:
        dataset = faces.dataset if same else model.run.dataset()
        protocol = faces.protocol
        if not dataset.has_votes and protocol in ("majority", "plurality"):
            protocol = "label"
        chosen = scoring.choose_faces([model], dataset, "validation", protocol)
        positions = scoring.label_positions(model, chosen)
    except DataError:  # the run's data is gone, or it held nothing back: the model is judged without a temperature
        return None, None, None
    scores = scoring.predict_rows(model, dataset, chosen.rows, batch_size)
    temperature, why_not = temperature_if_any(scores, positions)
    fitted_on = f"{len(positions)} validation faces of the run's data, protocol {protocol}"
    return temperature, None if why_not else fitted_on, why_not


def _write_tables(folder: Path, entry: _Judged, faces: ScoredFaces) -> None:
    import pandas as pd

    labels = entry.model.labels
    names = np.asarray(labels, dtype=object)
    predictions = pd.DataFrame(
        {
            "row": faces.rows,
            "source": faces.dataset.manifest["source"].to_numpy()[faces.rows],
            "true": names[entry.truth],
            "predicted": names[entry.predicted],
            **{f"p_{label}": entry.probabilities[:, index] for index, label in enumerate(labels)},
        }
    )
    write_whole(folder / "predictions.csv", predictions.to_csv(index=False, float_format="%.6f"))
    write_whole(folder / "per_class.csv", pd.DataFrame(entry.figures["per_class"]).to_csv(index=False))
    write_whole(folder / "coverage.csv", coverage_frame(entry.figures["coverage"]).to_csv(index=False))
    confusion = pd.DataFrame(entry.figures["confusion"], index=labels, columns=labels)
    write_whole(folder / "confusion.csv", confusion.to_csv(index_label="true"))


def _write_report(folder: Path, judged: Sequence[_Judged], faces: ScoredFaces, result: dict[str, Any]) -> None:
    from fer_keras.evaluation import report

    introduction = (
        f"{result['n']} {faces.split} faces of {faces.dataset.name}; "
        f"protocol {faces.protocol}: {PROTOCOL_MEANING[faces.protocol]}."
    )
    explanation = (
        "The interval is Wilson's at 95%. Macro figures are the unweighted mean over the labels that occur. ECE is the gap "
        "between confidence and accuracy (15 bins), as the model says and after its temperature."
    )
    fitted = [
        f"{entry.model.key}: temperature {entry.figures['temperature']:.3f}, fitted on {entry.figures['temperature_fitted_on']}."
        if entry.figures["temperature_fitted_on"]
        else f"{entry.model.key}: no temperature, as there are no validation faces to fit it on."
        for entry in judged
        if entry.figures["temperature_fitted_on"] or entry.figures["temperature"] is None  # a note says why it is 1 otherwise
    ]
    remarks = "".join(report.paragraph_html(line, note=True) for line in [explanation, *fitted, *result["notes"]])
    sections = [("", report.paragraph_html(introduction) + report.table_html(summary_frame(result)) + remarks)]
    for entry in judged:
        sections.append((entry.model.key, _model_html(folder / entry.folder, entry, faces)))
    runs = list(dict.fromkeys(entry.model.path for entry in judged if entry.model.run is not None))
    names = scoring.distinct_names(runs)
    files = scoring.file_names(names)
    for path, name in zip(runs, names, strict=True):
        sections += _history_section(path, name, folder / f"history-{files[name]}.png")
    write_whole(folder / "report.html", report.html_page(f"Evaluation: {_title(judged)}", sections))


def _title(judged: Sequence[_Judged]) -> str:
    return ", ".join(dict.fromkeys(entry.model.path.resolve().name for entry in judged))


def _model_html(folder: Path, entry: _Judged, faces: ScoredFaces) -> str:
    import pandas as pd

    from fer_keras.evaluation import plots, report

    figures, labels = entry.figures, entry.model.labels
    drawn = {
        "confusion.png": ("confusion matrix", plots.plot_confusion(figures["confusion"], labels)),
        "per_class.png": ("precision, recall and F1 of each label", plots.plot_per_class(figures["per_class"])),
        "roc.png": ("ROC curves, each label against the rest", plots.plot_roc(entry.truth, entry.probabilities, labels)),
        "precision_recall.png": (
            "precision-recall curves, each label against the rest",
            plots.plot_precision_recall(entry.truth, entry.probabilities, labels),
        ),
        "reliability.png": (
            "confidence against accuracy",
            plots.plot_reliability(entry.probabilities, entry.truth, figures["temperature"]),
        ),
        "coverage.png": (
            'accuracy of the answers that remain when those below a threshold are called "uncertain"; the threshold is of '
            "confidence after the temperature, where there is one, and serving calls it uncertain_below",
            plots.plot_coverage(figures["coverage"]),
        ),
    }
    parts = [report.table_html(pd.DataFrame(figures["per_class"]))]
    worst = _worst(entry)
    if len(worst):
        names, sure = np.asarray(labels, dtype=object), entry.probabilities[worst, entry.predicted[worst]]
        pictures = [faces.dataset.faces[row] for row in faces.rows[worst]]
        gallery = plots.plot_mistakes(pictures, names[entry.truth[worst]], names[entry.predicted[worst]], sure)
        drawn["worst_mistakes.png"] = ("the worst mistakes", gallery)
    for name, (alt, figure) in drawn.items():
        if name == "worst_mistakes.png":
            parts.append(f"<h3>Worst mistakes: the {len(worst)} of which the model was most sure</h3>")
        caption = "" if name == "worst_mistakes.png" else alt[0].upper() + alt[1:]
        parts.append(report.image_html(plots.save_png(figure, folder / name), f"{entry.model.key}: {alt}", caption))
        if name == "coverage.png":
            shown = coverage_frame(figures["coverage"])
            parts.append(report.table_html(shown.rename(columns={"uncertain_accuracy": "accuracy of the uncertain"})))
    if len(worst):
        parts.append(report.table_html(_worst_frame(entry, faces, worst)))
    else:
        parts.append(report.paragraph_html("There is no mistake to show."))
    return "\n".join(parts)


def _worst(entry: _Judged) -> np.ndarray:
    """Positions of the mistakes with the highest confidence, the surest first."""
    wrong = np.flatnonzero(entry.predicted != entry.truth)
    confidence = entry.probabilities[wrong, entry.predicted[wrong]]
    return wrong[np.argsort(-confidence, kind="stable")][:WORST]


def _worst_frame(entry: _Judged, faces: ScoredFaces, worst: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    names, predicted = np.asarray(entry.model.labels, dtype=object), entry.predicted[worst]
    return pd.DataFrame(
        {
            "row": faces.rows[worst],
            "source": faces.dataset.manifest["source"].to_numpy()[faces.rows[worst]],
            "true": names[entry.truth[worst]],
            "predicted": names[predicted],
            "confidence": entry.probabilities[worst, predicted],
            "probability of the true label": entry.probabilities[worst, entry.truth[worst]],
        }
    )


def _history_section(run_path: Path, name: str, file: Path) -> list[tuple[str, str]]:
    from fer_keras.evaluation import plots, report

    history = run_path / "history.csv"
    if not history.is_file():
        return []
    try:
        figure = plots.plot_history(history)
    except DataError:  # nothing was trained: there is no curve to show
        return []
    picture = plots.save_png(figure, file)
    return [(f"Training of {name}", report.image_html(picture, f"loss and accuracy of {name} by epoch"))]


def coverage_frame(curve: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """What `calibration.coverage_curve` gave as a table, the interval in two columns."""
    import pandas as pd

    lines = []
    for entry in curve:
        low, high = entry["accuracy_ci95"] or (None, None)
        lines.append({**entry, "accuracy_low": low, "accuracy_high": high})
    columns = ["threshold", "n", "coverage", "accuracy", "accuracy_low", "accuracy_high", "uncertain_accuracy"]
    return pd.DataFrame(lines, columns=columns)


def summary_frame(result: dict[str, Any]) -> pd.DataFrame:
    """The main figures of each model, one line a model, from what `evaluate` returned."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "model": key,
                "accuracy": entry["accuracy"],
                "95% interval": "{:.3f} to {:.3f}".format(*entry["accuracy_ci95"]),
                "macro F1": entry["macro_f1"],
                "top 2": entry["top2_accuracy"],
                "log loss": entry["log_loss"],
                "ECE": entry["ece"],
                "ECE with temperature": entry["ece_calibrated"],
                "temperature": entry["temperature"],
            }
            for key, entry in result["models"].items()
        ]
    )


def summary_text(result: dict[str, Any]) -> str:
    """The main figures as a table for the terminal, the weakest labels, and the notes."""
    table = summary_frame(result).to_string(index=False, float_format="{:.3f}".format, na_rep="-")
    lines = [f"{result['n']} {result['split']} faces of {result['data']['name']}, protocol {result['protocol']}", table]
    for key, entry in result["models"].items():
        there = sorted((one for one in entry["per_class"] if one["support"]), key=lambda one: one["recall"])
        recalls = ", ".join(f"{one['label']} {one['recall']:.2f}" for one in there)
        lines.append(f"{key}: recall from the weakest: {recalls}")
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def open_models(runs: Sequence[str], exported: Sequence[str]) -> list[ScoredModel]:
    """Models as the command line names them: best and final of each run, then the exported ones.

    A single run's keys are "best" and "final", a single exported model's its name; several are NAME and RUN/best.
    """
    exported = [scoring.find(path) for path in exported]
    names = scoring.distinct_names([*runs, *exported])
    models: list[ScoredModel] = []
    for path, name in zip(runs, names, strict=False):
        folder = scoring.open_run(path)
        models += scoring.run_models(folder, scoring.finished_weights(folder), "" if len(names) == 1 else f"{name}/")
    for path, name in zip(exported, names[len(runs) :], strict=True):
        models.append(scoring.exported_model(path, name))
    return models


def build_parser() -> CommandParser:
    """The command line of `python -m training.evaluate`."""
    parser = CommandParser(
        prog="python -m training.evaluate",
        description=__doc__,
        epilog="examples:\n  python -m training.evaluate --run runs/my-run\n"
        "  python -m training.evaluate --model saved_models/ferplus-cnn --data data/ferplus --protocol majority",
    )
    parser.add_argument(
        "--run", action="extend", nargs="+", default=[], metavar="RUN", help="run folders: best and final of each"
    )
    parser.add_argument(
        "--model", action="extend", nargs="+", default=[], metavar="NAME", help="exported models: names or folders"
    )
    protocols = "; ".join(f"{name}: {meaning}" for name, meaning in PROTOCOL_MEANING.items())
    scoring.add_face_options(
        parser,
        data="the one that the run was trained on",
        split="default: test, or validation where there is no test",
        protocol=f"{protocols}. Default: majority where there are votes, else label",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the report; default: RUN/evaluation-SPLIT-PROTOCOL, or in reports/"
    )
    parser.add_argument("--no-figures", action="store_true", help="only metrics.json and CSV files, which takes seconds less")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    if not args.run and not args.model:
        raise ConfigError("no model to evaluate; name a run folder with --run, or an exported model with --model")
    scoring.runs_among(args.model)  # a wrong path is told before TensorFlow is loaded
    dataset = scoring.common_dataset([scoring.open_run(path) for path in args.run], args.data)
    models = open_models(args.run, args.model)
    result = evaluate(
        models,
        dataset,
        split=args.split,
        protocol=args.protocol,
        out=args.out,
        batch_size=args.batch_size,
        figures=not args.no_figures,
    )
    print(summary_text(result))
    print(f"written: {Path(result['out']) / ('metrics.json' if args.no_figures else 'report.html')}")
    if args.json:
        write_json(Path(args.json), result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
