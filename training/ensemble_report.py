"""The report of an ensemble: tables for the terminal, CSV files, plots and one HTML page, from what `combining` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.files import write_whole
from fer_keras.models.exported import interval_to_state

if TYPE_CHECKING:
    import pandas as pd


def members_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """Each member alone, and what it adds: one line a member."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "member": entry["name"],
                "accuracy": entry["accuracy"],
                "95% interval": _interval(interval_to_state(entry)),
                "macro F1": entry["macro_f1"],
                "log loss": entry["log_loss"],
                "ECE": entry["ece"],
                **{f"weight ({how})": weight for how, weight in entry["weights"].items()},
                "gain": entry["gain"],
                "gain, 95% interval": _interval(entry["gain_ci95"], sign="+"),
                "parameters": entry["parameters"],
            }
            for entry in result["members"]
        ]
    )


def combinations_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """The best member and each way of combining: one line each."""
    import pandas as pd

    best = next(entry for entry in result["members"] if entry["name"] == result["best_member"])
    lines = [{"model": f"best member ({best['name']})", **_line(best)}]
    for how, entry in result["combinations"].items():
        gain = {
            "gain": entry["gain_over_best"],
            "gain, 95% interval": _interval(entry["gain_over_best_ci95"], sign="+"),
            "p (McNemar, Holm)": entry["mcnemar_p_holm"],
        }
        lines.append({"model": f"{how} (exported)" if how == result["combine"] else how, **_line(entry), **gain})
    return pd.DataFrame(lines)


def _line(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": entry["accuracy"],
        "95% interval": _interval(interval_to_state(entry)),
        "macro F1": entry["macro_f1"],
        "log loss": entry["log_loss"],
        "ECE": entry["ece"],
        "ECE with temperature": entry.get("ece_calibrated"),
    }


def _interval(bounds: Sequence[float], sign: str = "") -> str:
    return "{:{sign}.3f} to {:{sign}.3f}".format(*bounds, sign=sign)


def summary_text(result: Mapping[str, Any]) -> str:
    """The main figures as tables for the terminal, and the notes."""
    form = {"index": False, "float_format": "{:.3f}".format, "na_rep": "-"}
    return "\n".join(
        [
            f"{result['n']} {result['split']} faces of {result['data']['name']}, protocol {result['protocol']}",
            members_frame(result).to_string(**form),
            "",
            combinations_frame(result).to_string(**form),
            *(f"dropped: {entry['name']}: {entry['reason']}" for entry in result["dropped"]),
            *(f"note: {note}" for note in result["notes"]),
        ]
    )


def write_tables(out: Path, result: Mapping[str, Any], predictions: pd.DataFrame) -> None:
    """members.csv, combinations.csv, disagreement.csv and predictions.csv."""
    import pandas as pd

    names = [entry["name"] for entry in result["members"]]
    about = pd.DataFrame([{"member": entry["name"], "architecture": entry["architecture"]} for entry in result["members"]])
    write_whole(out / "members.csv", members_frame(result).merge(about, on="member").to_csv(index=False))
    write_whole(out / "combinations.csv", combinations_frame(result).to_csv(index=False))
    disagreement = pd.DataFrame(result["disagreement"], index=names, columns=names)
    write_whole(out / "disagreement.csv", disagreement.to_csv(index_label="member"))
    write_whole(out / "predictions.csv", predictions.to_csv(index=False, float_format="%.6f"))


def write_report(out: Path, result: Mapping[str, Any]) -> None:
    """report.html and its plots."""
    import pandas as pd

    from fer_keras.evaluation import ensemble_plots, plots, report

    members, ways = result["members"], result["combinations"]
    names = [entry["name"] for entry in members]
    scores = ensemble_plots.plot_scores(
        [*names, *ways],
        [entry["accuracy"] for entry in (*members, *ways.values())],
        [interval_to_state(entry) for entry in (*members, *ways.values())],
        [0] * len(members) + [3] * len(ways),
        xlabel="accuracy, 95% interval",
    )
    gains = ensemble_plots.plot_scores(
        names,
        [entry["gain"] for entry in members],
        [entry["gain_ci95"] for entry in members],
        [0] * len(members),
        xlabel=f"accuracy of {result['combine']} with the member less without it, 95% interval",
        zero=True,
    )
    disagreement = ensemble_plots.plot_disagreement(np.array(result["disagreement"]), names)
    pictures = {
        "scores.png": (scores, "accuracy of each member and of each way of combining them"),
        "disagreement.png": (disagreement, "share of the faces to which two members give different labels"),
        "gains.png": (gains, "what each member adds to the ensemble"),
    }
    images = {
        name: report.image_html(plots.save_png(figure, out / name), alt, alt[0].upper() + alt[1:])
        for name, (figure, alt) in pictures.items()
    }
    faces = f"{result['n']} {result['split']} faces of {result['data']['name']}"
    introduction = f"{faces}; protocol {result['protocol']}; seed {result['seed']}."
    explanation = (
        "Intervals of an accuracy are Wilson's at 95% (of as many faces as those of so many persons are worth, where some have "
        "several), those of a gain Newcombe's for two models on the same faces. The gain of "
        "a combination is over the best member, with an exact McNemar test corrected by Holm for the number of combinations; "
        f"the gain of a member is what {result['combine']} loses without it. Weights and temperature are never fitted on the "
        "faces that they are scored on."
    )
    remarks = "".join(report.paragraph_html(line, note=True) for line in [explanation, *result["notes"]])
    remarks += "".join(report.paragraph_html(f"Dropped: {entry['name']}: {entry['reason']}.") for entry in result["dropped"])
    about = pd.DataFrame(
        [{"member": entry["name"], "architecture": entry["architecture"], "from": entry["path"]} for entry in members]
    )
    sections = [
        (
            "",
            report.paragraph_html(introduction) + report.table_html(combinations_frame(result)) + remarks + images["scores.png"],
        ),
        ("Members", report.table_html(members_frame(result)) + images["gains.png"] + report.table_html(about)),
        ("Disagreement", images["disagreement.png"]),
    ]
    write_whole(out / "report.html", report.html_page(f"Ensemble of {len(members)} on {result['data']['name']}", sections))
