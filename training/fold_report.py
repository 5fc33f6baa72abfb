"""What a k-fold run found: figures of each fold, mean and standard deviation, everything summed, as files, page and table.

All of it is computed from the out-of-fold probabilities that are on disk.

OUT/out-of-fold.csv   row, fold, model (best or final), true, predicted, p_LABEL ...: every face, by models that never saw it
OUT/results.csv       a line a fold and model, then mean and std
OUT/results.json      the same with everything else: per-class figures, all faces together, how long it took
OUT/confusion/, OUT/figures/, OUT/report.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import DataError
from fer_keras.files import write_json, write_whole
from fer_keras.models.exported import interval_to_state
from training import scoring
from training.folds import OUT_OF_FOLD, VALIDATION_SHARE, KFoldRun, fold_name
from training.run_folder import WHICH

if TYPE_CHECKING:
    import pandas as pd

#: The figures of the tables, as classification_metrics names them.
FIGURES = (
    "accuracy",
    *("micro_precision", "micro_recall", "micro_f1"),
    *("macro_precision", "macro_recall", "macro_f1"),
)
STD_NOTE = (
    "std is the standard deviation of the folds (n - 1), which says how much figures vary from fold to fold. It is no standard "
    "error: folds share most of their training faces, and no unbiased estimate of the variance of k-fold exists (Bengio and "
    "Grandvalet 2004). Micro precision, recall and F1 equal the accuracy, as each face has one label."
)


def summarize(run: KFoldRun, dataset: FaceDataset) -> dict[str, Any]:
    """Write everything from the folds that are scored, and return what results.json holds. Raises DataError without any."""
    from fer_keras.evaluation.classification import classification_metrics

    scored = run.scored()
    if not scored:
        raise DataError(f"no fold of {run.path} is finished; go on with --resume {run.path}")
    table = read_out_of_fold([run.fold_path(fold) / OUT_OF_FOLD for fold in scored])
    write_whole(run.path / OUT_OF_FOLD, table.to_csv(index=False, float_format="%.8g"))
    judged, labels = table[table["true"] != ""], run.plan["labels"]
    if judged.empty:
        raise DataError(f"no face has a label by protocol {run.plan['protocol']}; choose another with --protocol")

    def figures(which: str, fold: int | None = None) -> dict[str, Any] | None:
        part = judged[(judged["model"] == which) & ((judged["fold"] == fold) if fold else True)]
        return classification_metrics(*truth_and_probabilities(part, labels), labels, curves=fold is None) if len(part) else None

    folds = []
    for fold in scored:
        metrics, trained = run.fold_run(fold).metrics, run.fold_run(fold)
        about = {
            "fold": fold,
            **{f"n_{part}": len(trained.rows(part)) for part in ("train", "validation", "test")},
            **{key: metrics.get(key) for key in ("epochs", "best_epoch", "best_val_loss", "fold_seconds")},
        }
        folds.append({**about, **{which: figures(which, fold) for which in WHICH}})
    people = scoring.identities(dataset, judged[judged["model"] == WHICH[0]]["row"].to_numpy())
    together = {}
    for which in WHICH:
        correct = (judged["true"] == judged["predicted"])[judged["model"] == which].to_numpy()
        together[which] = {**figures(which), **scoring.identities_interval(correct, people)}
    result = {
        **{key: value for key, value in run.plan.items() if key != "settings"},
        "validation_share": VALIDATION_SHARE,
        "folds_scored": scored,
        "complete": len(scored) == run.plan["folds"],
        "notes": _notes(run, scored, people, any("accuracy_ci95_identities" in entry for entry in together.values())),
        "summary": {which: _mean_and_std([fold[which] for fold in folds if fold[which]]) for which in WHICH},
        "by_fold": folds,
        "all_faces": together,
    }
    write_json(run.path / "results.json", result)
    write_whole(run.path / "results.csv", results_frame(result).to_csv(index=False, float_format="%.6f"))
    _write_confusions(run.path / "confusion", result)
    _write_report(run, result)
    return result


def read_out_of_fold(paths: Sequence[Path]) -> pd.DataFrame:
    """Out-of-fold tables as one, by model and row."""
    import pandas as pd

    parts = [pd.read_csv(path, dtype={"true": str, "predicted": str, "model": str}, keep_default_na=False) for path in paths]
    return pd.concat(parts).sort_values(["model", "row"], kind="stable", ignore_index=True)


def truth_and_probabilities(table: pd.DataFrame, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """From lines of out-of-fold.csv: true labels int64 (n,), and probabilities float64 (n, classes) that sum to 1."""
    lookup = {label: index for index, label in enumerate(labels)}
    probabilities = table[[f"p_{label}" for label in labels]].to_numpy(np.float64)
    return table["true"].map(lookup).to_numpy(np.int64), probabilities / probabilities.sum(axis=1, keepdims=True)


def _mean_and_std(folds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    values = {name: np.array([fold[name] for fold in folds]) for name in FIGURES}
    return {
        name: {"mean": float(of.mean()), "std": float(of.std(ddof=1)) if len(of) > 1 else None} for name, of in values.items()
    }


def _notes(run: KFoldRun, scored: Sequence[int], people: np.ndarray | None, over_people: bool) -> list[str]:
    from fer_keras.evaluation.paired import one_person_note

    plan = run.plan
    notes = list(plan["notes"])
    if len(scored) < plan["folds"]:
        missing = ", ".join(str(fold) for fold in run.folds if fold not in scored)
        notes.append(f"not finished: fold {missing} of {plan['folds']} is missing; go on with --resume {run.path}")
    if plan["n_judged"] < plan["n"]:
        notes.append(
            f"{plan['n'] - plan['n_judged']} of {plan['n']} faces have no label by protocol {plan['protocol']} and are judged by "
            "nothing; their probabilities are in out-of-fold.csv with an empty true label"
        )
    if "test" in plan["splits"]:
        notes.append(
            "test faces of the data set take part, as all do unless --splits train,validation; a model chosen by these figures "
            "has no untouched test faces left in this data set"
        )
    if run.shares_features and run.settings.weights in ("none", "auto"):
        origin = run.fold_run(scored[0]).metrics.get("backbone", "")
        if "random weights" in origin:
            notes.append(
                "the backbone has random weights; the statistics of its batch normalisation are of 512 faces of all folds, the "
                "same for each: pixels of test faces were seen, their labels were not"
            )
    if people is not None:
        told = "the faces of a person are in one fold"
        if over_people:
            told += "; the interval is Wilson's of as many faces as those of so many persons are worth"
        notes += [told, *one_person_note(people)]
    return notes


def results_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """A line a model and fold, then its mean and std: model, fold, n, epochs, best_epoch and FIGURES."""
    import pandas as pd

    lines = []
    for which in WHICH:
        for fold in result["by_fold"]:
            if fold[which]:
                head = {"model": which, "fold": str(fold["fold"]), "n": fold[which]["n"]}
                lines.append({**head, **{key: fold[key] for key in ("epochs", "best_epoch")}, **_only(fold[which])})
        for kind in ("mean", "std"):
            values = {name: result["summary"][which][name][kind] for name in FIGURES}
            lines.append({"model": which, "fold": kind, "n": None, "epochs": None, "best_epoch": None, **values})
    return pd.DataFrame(lines).astype({key: "Int64" for key in ("n", "epochs", "best_epoch")})


def _only(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: figures[name] for name in FIGURES}


def summary_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """Mean ± std over folds, a line a figure and a column a model."""
    import pandas as pd

    def cell(entry: Mapping[str, float | None]) -> str:
        return f"{entry['mean']:.3f}" + ("" if entry["std"] is None else f" ± {entry['std']:.3f}")

    lines = [
        {"mean ± std over folds": name.replace("_", " "), **{which: cell(result["summary"][which][name]) for which in WHICH}}
        for name in FIGURES
    ]
    return pd.DataFrame(lines)


def summary_text(result: Mapping[str, Any]) -> str:
    """The tables for the terminal."""
    frame = results_frame(result)
    frame = frame[~frame["fold"].isin(["mean", "std"])].drop(columns=["micro_precision", "micro_recall", "micro_f1"])
    by_fold = frame.to_string(index=False, float_format="{:.3f}".format, na_rep="-")
    lines = [_protocol_line(result), by_fold, "", summary_frame(result).to_string(index=False)]
    lines += [_together_line(which, result["all_faces"][which]) for which in WHICH]
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def _protocol_line(result: Mapping[str, Any]) -> str:
    whose = ", persons kept in one fold" if result["identities"] else ""
    return (
        f"{len(result['folds_scored'])} of {result['folds']} folds of {result['n']} faces of {result['dataset']['name']} "
        f"({', '.join(result['splits'])}), stratified by {', '.join(result['stratify'])}{whose}; protocol {result['protocol']}"
    )


def _together_line(which: str, figures: Mapping[str, Any]) -> str:
    interval, kind = interval_to_state(figures), "over persons" if "accuracy_ci95_identities" in figures else "Wilson"
    return (
        f"{which}, all {figures['n']} out-of-fold faces together: accuracy {figures['accuracy']:.3f} "
        f"(95% {interval[0]:.3f} to {interval[1]:.3f}, {kind}), macro F1 {figures['macro_f1']:.3f}"
    )


def _write_confusions(folder: Path, result: Mapping[str, Any]) -> None:
    """A matrix a fold and model, and their sum, which is that of all faces together."""
    import pandas as pd

    digits = result["folds"]
    for which in WHICH:
        tables = {fold_name(fold["fold"], digits): fold[which] for fold in result["by_fold"]}
        for name, figures in {**tables, "sum": result["all_faces"][which]}.items():
            if figures:
                frame = pd.DataFrame(figures["confusion"], index=result["labels"], columns=result["labels"])
                write_whole(folder / f"{name}-{which}.csv", frame.to_csv(index_label="true"))


def _write_report(run: KFoldRun, result: Mapping[str, Any]) -> None:
    import pandas as pd

    from fer_keras.evaluation import plots, report

    labels, figures = result["labels"], run.path / "figures"
    introduction = "".join(report.paragraph_html(line + ".") for line in [_protocol_line(result)])
    together = "".join(report.paragraph_html(_together_line(which, result["all_faces"][which]) + ".") for which in WHICH)
    remarks = "".join(report.paragraph_html(line, note=True) for line in [STD_NOTE, *result["notes"]])
    sections = [("", introduction + report.table_html(summary_frame(result)) + together + remarks)]
    frame = results_frame(result)
    tables = [f"<h3>{which}</h3>" + report.table_html(frame[frame["model"] == which].drop(columns="model")) for which in WHICH]
    sections.append(("Folds", "".join(tables)))
    histories = {f"fold {fold}": run.fold_path(fold) / "history.csv" for fold in result["folds_scored"]}
    drawn = plots.save_png(plots.plot_histories(histories), figures / "loss.png")
    sections.append(("Loss by epoch", report.image_html(drawn, "training and validation loss by epoch, a plot a fold")))
    for which in WHICH:
        entry = result["all_faces"][which]
        summed = plots.save_png(plots.plot_confusion(entry["confusion"], labels), figures / f"confusion-sum-{which}.png")
        each = {f"fold {fold['fold']}": fold[which]["confusion"] for fold in result["by_fold"] if fold[which]}
        folds = plots.save_png(plots.plot_confusions(each, labels), figures / f"confusion-folds-{which}.png")
        body = [
            report.table_html(pd.DataFrame(entry["per_class"])),
            report.image_html(summed, f"{which}: confusion matrix of all folds", "All folds, summed"),
            report.image_html(
                folds, f"{which}: confusion matrix of each fold", "Each fold: counts, coloured by share of the row"
            ),
        ]
        sections.append((f"{which}: all faces together", "".join(body)))
    title = f"{result['folds']}-fold cross-validation: {run.path.resolve().name}"
    write_whole(run.path / "report.html", report.html_page(title, sections))
