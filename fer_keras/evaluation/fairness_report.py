"""A bias report in words, tables and HTML, from what `fairness.audit`, `dataset_bias` and `compare_shares` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fer_keras.evaluation.fairness import ALPHA
from fer_keras.evaluation.report import column_names

if TYPE_CHECKING:
    import pandas as pd

_FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "ece": "calibration error",
    "recall": "recall of {}",
    "false_positive_rate": "false positives of {}",
}
#: With fewer people in a group, or more of its faces from one, a bootstrap over people is rough, and the report says so.
FEW_PEOPLE, ONE_PERSON = 10, 0.2
LIMITS = (
    "A difference that is shown need not be the model's doing alone: the pictures of a group can be harder, or can have been "
    "labelled otherwise. A difference that is not shown can still be there; the intervals say how large it may be. Emotion "
    "labels and group labels are what annotators saw, not what people felt or are."
)
METHOD = (
    "Accuracy at the same mix of emotions is what is left once every group is given the same mix (least squares with an effect "
    "for each emotion and each group; for two groups, the Mantel-Haenszel difference): a group with more happy faces, which are "
    "easy, scores higher without being treated otherwise, so conclusions rest on this figure. Intervals are 95%, from a "
    "bootstrap within each group, drawing {units}; those of a gap hold for all pairs of groups at once, since the largest was "
    "picked, but are not corrected for how many figures were looked at. The p values are: they come from exchanging the groups "
    "of {units} {permutations} times among those with the same true emotion (whole identities among those with the same "
    "commonest emotion and about as many faces, for which people keep only some of theirs where groups differ too much in that; "
    "the difference after each exchange is in units of its own uncertainty, and what comes within a quarter of a face of the "
    "observed one counts as equal), corrected by Holm's method for all {comparisons} comparisons of this report, so that with no "
    "difference anywhere at most 5 of 100 such reports would show one. Macro figures are means over the emotions that every "
    "compared group has. The calibration error (ECE) of few faces is larger by chance alone; its test allows for that."
)


def figure_name(metric: str, label: str | None) -> str:
    """What a figure is called: ("recall", "fear") -> "recall of fear"."""
    return _FIGURES[metric].format(label)


def counted(count: int, one: str, several: str | None = None) -> str:
    """(1, "face") -> "1 face", (2, "face") -> "2 faces", (2, "person", "people") -> "2 people"."""
    return f"{count} {one if count == 1 else several or one + 's'}"


def findings(result: Mapping[str, Any]) -> list[str]:
    """What an audit found, in sentences: first what is shown, then what is not, then what could not be looked at."""
    shown, not_shown = [], []
    several = len(result["models"]) > 1
    for name in result["groupings"]:
        for model, judged in result["models"].items():
            found = judged["groupings"][name]
            prefix = f"{model}: " if several else ""
            by_metric = {(gap["metric"], gap["label"]): gap for gap in found["gaps"]}
            accuracy = by_metric.get(("accuracy", None))
            if accuracy is not None and accuracy["tested"]:
                sentence = prefix + _accuracy_sentence(name, accuracy, found["groups"], result["comparisons"])
                (shown if accuracy["shown"] else not_shown).append(sentence)
            elif accuracy is not None and accuracy["untested"]:
                not_shown.append(
                    f"{prefix}whether accuracy differs by {name} is not tested: {accuracy['untested']}. The largest gap is "
                    f"{accuracy['gap']:.3f} (95% {_signed(accuracy)})."
                )
            untested = [gap for gap in found["gaps"] if gap["untested"] and gap["metric"] != "accuracy"]
            if untested:
                not_shown.append(
                    f"{prefix}not tested by {name}, for too few people could be exchanged: "
                    + ", ".join(figure_name(gap["metric"], gap["label"]) for gap in untested)
                    + "."
                )
            others = [gap for gap in found["gaps"] if gap["tested"] and gap["metric"] != "accuracy"]
            marked = [gap for gap in others if gap["shown"]]
            if marked:
                also = "also different" if accuracy is not None and accuracy["shown"] else "different"
                shown.append(f"{prefix}{also} by {name}: " + "; ".join(_short(gap) for gap in marked) + ".")
            if len(others) > len(marked):
                share = f"{len(others) - len(marked)} of the" if marked else "any of the"
                rest = f"{share} {len(others)} other figures (recall and false positives of each emotion, calibration)"
                not_shown.append(f"{prefix}no difference by {name} shown in {rest}.")
    return shown + not_shown + _left_out(result)


def _accuracy_sentence(name: str, gap: Mapping[str, Any], groups: Mapping[str, Any], comparisons: int) -> str:
    same = gap["adjusted"]
    p = f"p = {_p(gap['p_corrected'])} after correction for {counted(comparisons, 'comparison')}"
    raw = f"{gap['gap']:.3f} (95% {_signed(gap)})"
    if not gap["shown"]:
        alone = ""
        if gap["p"] < ALPHA:
            alone = f" Alone (p = {_p(gap['p'])}) it would count; among so many comparisons it is too likely by chance."
        return (
            f"no difference in accuracy by {name} shown: the largest gap is {raw}, and at the same mix of emotions "
            f"{same['gap']:.3f} ({_signed(same)}); {p}.{alone} That is no proof that there is none."
        )
    clear = gap["clearest"]
    worst, best = groups[clear["worst"]], groups[clear["best"]]
    sentence = (
        f"accuracy differs by {name}: {clear['worst']} {_with_interval(worst)}, {clear['best']} {_with_interval(best)}. At the "
        f"same mix of emotions {clear['worst']} is lower by {clear['gap']:.3f} ({_signed(clear)}); {p}."
    )
    if (gap["worst"], gap["best"]) == (clear["worst"], clear["best"]):
        return f"{sentence} The gap as it is: {raw}."
    return f"{sentence} The largest gap as it is: {gap['worst']} below {gap['best']} by {raw}."


def _with_interval(group: Mapping[str, Any]) -> str:
    low, high = group["ci95"]["accuracy"]
    return f"{group['accuracy']:.3f} ({low:.3f} to {high:.3f}, n {group['n']})"


def _signed(gap: Mapping[str, Any]) -> str:
    return f"{gap['low']:.3f} to {gap['high']:.3f}"


def _short(gap: Mapping[str, Any]) -> str:
    clear = gap["clearest"]
    # The gap named is the tested one: at the same mix of emotions, where the mix matters.
    return (
        f"{figure_name(gap['metric'], gap['label'])} (worst {clear['worst']}, best {clear['best']}, gap {clear['gap']:.3f}, "
        f"{_signed(clear)}, p = {_p(gap['p_corrected'])})"
    )


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _left_out(result: Mapping[str, Any]) -> list[str]:
    sentences = []
    for name, grouping in result["groupings"].items():
        small = {group: entry["n"] for group, entry in grouping["groups"].items() if entry["small"]}
        if small:
            listed = ", ".join(f"{group} ({count})" for group, count in small.items())
            sentences.append(
                f"{name}: fewer than {result['min_n']} faces in {listed}; shown, but left out of all comparisons and conclusions."
            )
        rough = [
            f"{group} ({counted(entry['identities'], 'person', 'people')}, one with {entry['most_of_one']} of {entry['n']} faces)"
            for group, entry in grouping["groups"].items()
            if not entry["small"]
            and entry["identities"] is not None
            and (entry["identities"] < FEW_PEOPLE or entry["most_of_one"] > ONE_PERSON * entry["n"])
        ]
        if rough:
            sentences.append(f"{name}: few people are behind the figures of {', '.join(rough)}; intervals are rough there.")
        compared = sum(entry["n"] for entry in grouping["groups"].values() if not entry["small"])
        if 0 < grouping["n_tested"] < compared:
            sentences.append(
                f"{name}: people of one group have more faces each than those of another, so tests look at "
                f"{grouping['n_tested']} of {compared} faces: of people with many, drawn at random, as many as others have. The "
                "figures are of all faces."
            )
        if len(grouping["groups"]) - len(small) < 2:
            sentences.append(f"{name}: fewer than two groups have {result['min_n']} faces or more, so nothing could be compared.")
        if grouping["unknown"] and len(grouping["columns"]) == 1:
            sentences.append(f"{name} is unknown for {grouping['unknown']} of {result['n']} faces; they are in no group.")
    return sentences


def dataset_findings(dataset: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the data itself shows. dataset: {part: {column: dataset_bias(...)}}; the first part is put into words."""
    part, columns = next(iter(dataset.items()))
    sentences = []
    for column, found in columns.items():
        sizes = {group: sum(counts.values()) for group, counts in found["counts"].items()}
        listed = ", ".join(f"{group} {size / found['n']:.1%}" for group, size in sizes.items())
        worth = f"worth {found['effective_groups']:.2f} equally large groups of {len(sizes)}"
        sentence = f"data ({part}): {column} is {listed}; that is {worth}"
        if found["cramers_v"] is not None:
            sentence += f"; {column} and emotion are associated with Cramer's V {found['cramers_v']:.3f} (0 none, 1 complete)"
            over = [
                (value, group, label)
                for group, line in found["npmi"].items()
                for label, value in line.items()
                if value is not None and found["counts"][group][label] >= 10
            ]
            if over:
                value, group, label = max(over)
                sentence += f", most of all {group} with {label} (NPMI {value:.3f})"
        sentences.append(sentence + ".")
    return sentences


def detector_findings(detected: Mapping[str, Mapping[str, Any]], detector: str) -> list[str]:
    """What `compare_shares` says of missed faces, in sentences. detected: {column: result}."""
    sentences = []
    for column, found in detected.items():
        if found["p"] is None:
            told = f"misses by {column} can't be compared: {found['untested']}."
            if found["gap"] is not None:
                told += f" The largest gap is {found['gap']:.3f} (95% {_signed(found)})."
            sentences.append(f"detector {detector}: {told}")
            continue
        shares = ", ".join(
            f"{name} {group['accuracy']:.1%} ({group['low']:.1%} to {group['high']:.1%}, n {group['n']})"
            for name, group in found["groups"].items()
        )
        verdict = "faces are missed at different rates" if found["shown"] else "no difference in missed faces shown"
        p = f"p = {_p(found['p_corrected'])}, labels held fixed, corrected for {counted(len(detected), 'comparison')}"
        sentences.append(f"detector {detector}, by {column}: {verdict}: {shares}; {p}.")
    return sentences


def counts_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """Who is there: grouping, group, n, share, identities, compared, and the faces of each emotion."""
    import pandas as pd

    columns = column_names(result["labels"], ("grouping", "group", "n", "share", "identities", "compared"), "label")
    lines = []
    for name, grouping in result["groupings"].items():
        known = sum(entry["n"] for entry in grouping["groups"].values())
        for group, entry in grouping["groups"].items():
            line = {"grouping": name, "group": group, "n": entry["n"], "share": entry["n"] / known}
            if entry["identities"] is not None:
                line["identities"] = entry["identities"]
            line["compared"] = "too few" if entry["small"] else "yes"
            lines.append({**line, **{columns[label]: count for label, count in entry["labels"].items()}})
        lines.append({"grouping": name, "group": "(unknown)", "n": grouping["unknown"]})
    frame = pd.DataFrame(lines)
    whole = ["n", *(["identities"] if "identities" in frame else []), *columns.values()]
    return frame.astype(dict.fromkeys(whole, "Int64"))


def groups_frame(result: Mapping[str, Any], intersections: bool) -> pd.DataFrame:
    """Every figure with its interval, one line a model and group. intersections: those of several columns, or of one."""
    import pandas as pd

    lines = []
    for model, name, found in _judged(result):
        if (len(result["groupings"][name]["columns"]) > 1) is not intersections:
            continue
        for group, entry in found["groups"].items():
            line = {"model": model, "grouping": name, "group": group, "n": entry["n"]}
            line["compared"] = "too few" if entry["small"] else "yes"
            for figure, value in entry.items():
                if figure in ("n", "small", "ci95", "confusion"):
                    continue
                line[figure] = value
                if figure in entry["ci95"]:
                    line[f"{figure}_low"], line[f"{figure}_high"] = entry["ci95"][figure]
            lines.append(line)
    return pd.DataFrame(lines)


def gaps_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """Every gap, one line a model, grouping and figure."""
    import pandas as pd

    lines = []
    for model, name, found in _judged(result):
        for gap in found["gaps"]:
            line = {"model": model, "grouping": name, "figure": figure_name(gap["metric"], gap["label"])}
            line |= {key: gap[key] for key in ("worst", "best", "gap", "low", "high", "ratio")}
            for part in ("adjusted", "clearest"):
                keys = ("worst", "best", "gap", "low", "high")
                line |= {f"{part}_{key}": gap[part][key] if gap[part] else None for key in keys}
            line |= {"p": gap["p"], "p_corrected": gap["p_corrected"], "shown": gap["shown"] if gap["tested"] else None}
            lines.append(line)
    return pd.DataFrame(lines)


def parity_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """Demographic parity and equalised odds, one line a model, grouping and emotion."""
    import pandas as pd

    return pd.DataFrame(
        [
            {"model": model, "grouping": name, "emotion": label, **values}
            for model, name, found in _judged(result)
            for label, values in found["parity"].items()
        ]
    )


def confusions_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """Confusion matrices, one line a cell: model, grouping, group, true, predicted, n."""
    import pandas as pd

    labels = result["labels"]
    return pd.DataFrame(
        [
            {"model": model, "grouping": name, "group": group, "true": true, "predicted": predicted, "n": count}
            for model, name, found in _judged(result)
            for group, entry in found["groups"].items()
            for true, line in zip(labels, entry["confusion"], strict=True)
            for predicted, count in zip(labels, line, strict=True)
        ]
    )


def dataset_frames(dataset: Mapping[str, Mapping[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measures (one line a part and column), and NPMI (one line a part, column, group and emotion)."""
    import pandas as pd

    measures, pairs = [], []
    for part, columns in dataset.items():
        for column, found in columns.items():
            plain = {key: value for key, value in found.items() if not isinstance(value, dict)}
            measures.append({"part": part, "column": column, "groups": len(found["counts"]), **plain})
            pairs += [
                {
                    "part": part,
                    "column": column,
                    "group": group,
                    "emotion": label,
                    "n": count,
                    "npmi": found["npmi"][group][label],
                }
                for group, line in found["counts"].items()
                for label, count in line.items()
            ]
    return pd.DataFrame(measures), pd.DataFrame(pairs)


def detector_frame(detected: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Missed faces, one line a column and group."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "column": column,
                "group": name,
                "n": group["n"],
                "missed": group["accuracy"],
                "low": group["low"],
                "high": group["high"],
            }
            for column, found in detected.items()
            for name, group in found["groups"].items()
        ],
        columns=["column", "group", "n", "missed", "low", "high"],
    )


def summary_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """The main figures of each group, for reading: one line a grouping, group and model."""
    import pandas as pd

    lines = []
    for name, grouping in result["groupings"].items():
        for group, about in grouping["groups"].items():
            for model, judged in result["models"].items():
                entry = judged["groupings"][name]["groups"][group]
                low, high = entry["ci95"]["accuracy"]
                lines.append(
                    {
                        "by": name,
                        "group": group + (" (too few)" if about["small"] else ""),
                        "n": entry["n"],
                        "model": model,
                        "accuracy": entry["accuracy"],
                        "95% interval": f"{low:.3f} to {high:.3f}",
                        "same mix": entry["adjusted_accuracy"],
                        "macro F1": entry["macro_f1"],
                        "ECE": entry["ece"],
                    }
                )
    return pd.DataFrame(lines)


def gaps_summary_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """The largest gaps, for reading: accuracy, macro F1 and calibration, and what else differs."""
    import pandas as pd

    lines = []
    for name in result["groupings"]:
        for model, judged in result["models"].items():
            for gap in judged["groupings"][name]["gaps"]:
                if gap["label"] and not gap["shown"]:
                    continue
                same = gap["adjusted"]
                verdict = ("different" if gap["shown"] else "not shown") if gap["tested"] else "not tested"
                lines.append(
                    {
                        "by": name,
                        "model": model,
                        "figure": figure_name(gap["metric"], gap["label"]),
                        "worst": gap["worst"],
                        "best": gap["best"],
                        "gap": gap["gap"],
                        "95% interval": _signed(gap),
                        "ratio": gap["ratio"],
                        "same mix": f"{same['gap']:.3f} ({_signed(same)})" if same else None,
                        "p corrected": gap["p_corrected"],
                        "difference": verdict,
                    }
                )
    columns = ["by", "model", "figure", "worst", "best", "gap", "95% interval", "ratio", "same mix", "p corrected", "difference"]
    return pd.DataFrame(lines, columns=columns)


def method(result: Mapping[str, Any]) -> str:
    """How the figures of a report were made."""
    return METHOD.format(**{key: result[key] for key in ("units", "permutations", "comparisons")})


def _judged(result: Mapping[str, Any]) -> Sequence[tuple[str, str, Mapping[str, Any]]]:
    return [(model, name, found) for model, judged in result["models"].items() for name, found in judged["groupings"].items()]
