"""From models to an ensemble: which faces it is fitted and scored on, what the members say, figures, export.

Nothing is ever scored on the faces that its weights were fitted on; see `choose_faces`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras import cli
from fer_keras.data import targets
from fer_keras.errors import DataError, ModelError, TrainingError
from fer_keras.files import read_json, write_json
from fer_keras.labels import words_to_map
from fer_keras.models.ensemble import COMBINATIONS, common_labels, ensemble_spec, input_of, label_order
from training import ensemble_report, scoring, train
from training.config import TrainConfig

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from fer_keras.data.dataset import FaceDataset
    from fer_keras.models.registry import ModelSpec
    from training.scoring import ScoredModel

#: Fewer unseen faces than this say nothing about an ensemble.
FEWEST_FACES = 20
#: Ways of combining that need weights fitted on validation faces.
FITTED = ("weighted", "greedy")


@dataclass(frozen=True)
class Plan:
    """What an ensemble is made of: OUT/ensemble.json.

    settings: those of the members to train, resolved but for the seed of each. members: how many to train. join: paths of
    runs and exported models. combine: what is exported. protocol: how faces get their true labels; None: as usual for the data.
    data: the data set. mirror: members answer for each face and its mirror image. notes: what a reader should know of members.
    half: members are rounded to what 16 bits hold and judged as they are then.
    """

    settings: dict[str, Any]
    members: int
    join: list[str]
    combine: str
    protocol: str | None
    data: str
    mirror: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)
    half: bool = False


@dataclass(frozen=True)
class Member:
    """A model that is part of the ensemble, or was to be.

    name: how the report calls it. path: run folder or exported model. labels: in the order of its output.
    half: with its weights rounded as `rounded_to_half` does.
    """

    name: str
    path: Path
    spec: ModelSpec
    labels: tuple[str, ...]
    half: bool = False

    @property
    def is_run(self) -> bool:
        """Whether it is a run (its best weights) rather than an exported model."""
        return scoring.is_run(self.path)

    def score(self) -> ScoredModel:
        """The model, ready to be scored."""
        model = scoring.open_model(self.path, self.name)
        return dataclasses.replace(model, forward=scoring.forward_of(self.keras_model(), self.spec)) if self.half else model

    def keras_model(self) -> keras.Model:
        """The Keras model in float32."""
        from fer_keras.models.exported import load_keras_model, rounded_to_half

        model = scoring.open_run(self.path).load_model("best") if self.is_run else load_keras_model(self.path)
        if self.half:
            model.set_weights(rounded_to_half(model.get_weights()))
        return model

    def describe(self) -> str:
        """Its architecture in half a sentence."""
        from fer_keras.models.random_cnn import describe

        options = self.spec.options
        if self.spec.name == "random_cnn":
            return f"random_cnn: {describe(options)}"
        if self.spec.name == "ensemble":
            return f"ensemble of {len(options['members'])} by {options['combine']}{', mirrored' if options['mirror'] else ''}"
        told = [f"{key} {options[key]}" for key in ("preset", "layers", "input_size") if options.get(key) is not None]
        return f"{self.spec.name}{': ' if told else ''}{', '.join(told)}"


def read_state(path: Path) -> dict[str, Any]:
    """A JSON file of an ensemble. Raises FerError where it can't be read."""
    return read_json(path, damaged="begin the ensemble anew")


@dataclass(frozen=True)
class Faces:
    """The faces on which an ensemble is fitted and scored. Rows are int64 lines of the data set, truth indexes its labels.

    fit_rows, fit_truth: labelled validation faces that no member was trained on; may be none.
    rows, truth: those that are scored. split: what they are. parts: (positions in fit_rows, positions in rows): what is fitted on
    the first is scored on the second. notes: what a reader should know. learnt: the rows that members learnt from.
    """

    protocol: str
    split: str
    fit_rows: np.ndarray
    fit_truth: np.ndarray
    rows: np.ndarray
    truth: np.ndarray
    parts: list[tuple[np.ndarray, np.ndarray]]
    notes: list[str]
    learnt: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))


def choose_faces(members: Sequence[Member], dataset: FaceDataset, protocol: str | None, seed: int = 0) -> Faces:
    """Which faces an ensemble is fitted on, and which it is scored on.

    Scored are test faces, and weights and temperature are fitted on validation faces. Without test faces both are the
    validation faces, cut in two halves of like labels: each is scored with what the other gave. Faces that a member was
    trained on are left out of both, which matters for the folds of a k-fold run; where (nearly) none is left, all are
    scored, nothing is fitted, and a note says that the figures flatter.
    """
    protocol = protocol or targets.default_protocol(dataset)
    notes, seen = [], [np.empty(0, np.int64)]
    for member in members:
        rows, source = _learnt_from(member, dataset)
        if rows is None:
            notes.append(scoring.other_data_note(member.name, source))
        else:
            seen.append(rows)
    trained = np.unique(np.concatenate(seen))
    labelled = {split: targets.select(dataset, dataset.rows(split), protocol) for split in ("validation", "test")}
    unseen, left_out = {}, {}
    for split, (rows, truth) in labelled.items():
        new = ~np.isin(rows, trained)
        unseen[split] = (rows[new], truth[new])
        told = f"{len(new) - new.sum()} of {len(new)} {split} faces were used to train a member and are left out"
        left_out[split] = [told] if 0 < new.sum() < len(new) else []
    fit_rows, fit_truth = unseen["validation"]
    everything = np.arange(len(fit_rows))
    rows, truth = unseen["test"]
    if len(rows) >= min(FEWEST_FACES, len(labelled["test"][0]) or FEWEST_FACES):
        notes += left_out["validation"] + left_out["test"]
        return Faces(protocol, "test", fit_rows, fit_truth, rows, truth, [(everything, np.arange(len(rows)))], notes, trained)
    if len(fit_rows) >= FEWEST_FACES:
        half = _halves(fit_truth, seed)
        parts = [(np.flatnonzero(~half), np.flatnonzero(half)), (np.flatnonzero(half), np.flatnonzero(~half))]
        notes += left_out["validation"]
        few = "too few test faces that no member was trained on" if len(labelled["test"][0]) else "no test faces"
        notes.append(
            f"{dataset.name} has {few}: these are validation faces, by which the best epochs of members were chosen. "
            "Weights and temperature are fitted on one half and scored on the other, both ways round"
        )
        return Faces(protocol, "validation", fit_rows, fit_truth, fit_rows, fit_truth, parts, notes, trained)
    split = next((split for split in ("test", "validation") if len(labelled[split][0])), None)
    if split is None:
        raise DataError(f"{dataset.path} has no validation or test face with a label by protocol {protocol}")
    rows, truth = labelled[split]
    none = np.empty(0, np.int64)
    notes.append(f"members were trained on faces that are scored here ({split}); all figures flatter, and no weights are fitted")
    return Faces(protocol, split, none, none, rows, truth, [(none, np.arange(len(rows)))], notes, trained)


def _learnt_from(member: Member, dataset: FaceDataset) -> tuple[np.ndarray | None, object]:
    return scoring.rows_learnt(scoring.open_run(member.path) if member.is_run else member.path, dataset)


def _halves(truth: np.ndarray, seed: int) -> np.ndarray:
    """bool (n,): one half of the faces, as near to half of each label as can be."""
    order = np.random.default_rng(seed).permutation(len(truth))
    half = np.zeros(len(truth), bool)
    half[order[np.argsort(truth[order], kind="stable")][::2]] = True
    return half


@dataclass(frozen=True)
class Answers:
    """What members say: float32 (m, n, k) in the ensemble's label order, of the faces to fit on and of those to score.

    fit, score: fed as the ensemble feeds them. single: of the faces to score, each member with its own input.
    """

    fit: np.ndarray
    score: np.ndarray
    single: np.ndarray


def ask_members(
    members: Sequence[Member], labels: Sequence[str], dataset: FaceDataset, faces: Faces, mirror: bool = False
) -> tuple[Answers, list[int]]:
    """The answers of all members, and how many weights each has.

    A member whose input is smaller than the ensemble's is asked twice: the ensemble resizes a face for it from its own size.
    mirror: the ensemble asks for a face and its mirror image; a single member is judged by the face alone all the same.
    """
    image_size, channels = input_of([member.spec for member in members])
    same = faces.rows is faces.fit_rows
    fit, score, single, parameters = [], [], [], []
    for member in members:
        model = member.score()
        order = label_order(labels, model.labels) or list(range(len(labels)))

        def ask(asked: ScoredModel, rows: np.ndarray, order: list[int] = order) -> np.ndarray:
            return scoring.predict_rows(asked, dataset, rows)[:, order]

        fed = model
        if (model.image_size, model.channels) != (image_size, channels):
            forward = lambda batch, model=model: model.forward(scoring.fitted(batch, model))  # noqa: E731
            fed = dataclasses.replace(model, image_size=image_size, channels=channels, forward=forward)
        if mirror:
            fed = dataclasses.replace(fed, forward=_for_both_sides(fed))
        score.append(ask(fed, faces.rows))
        fit.append(score[-1] if same else ask(fed, faces.fit_rows))
        single.append(score[-1] if fed is model else ask(model, faces.rows))
        parameters.append(model.parameters)
        if not np.isfinite(score[-1]).all():
            raise ModelError(f"{member.name} gives no finite probabilities; its training has failed, leave it out")
    return Answers(np.stack(fit), np.stack(score), np.stack(single)), parameters


def _for_both_sides(model: ScoredModel) -> Callable[[np.ndarray], np.ndarray]:
    """The model's answer for faces and their mirror images, the mean of both."""
    return lambda faces: (model.forward(faces) + model.forward(np.ascontiguousarray(faces[:, :, ::-1]))) / 2


def crossfitted(
    answers: Answers, faces: Faces, how: str, chosen: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Combined probabilities of the scored faces, float64 (n, k), and the same after a temperature (None: none was fitted).

    Weights and temperature come from other faces than those they are applied to. chosen: members, by position; None: all.
    """
    from fer_keras.evaluation.calibration import apply_temperature, temperature_if_any
    from fer_keras.inference import ensemble

    fit, score = (part if chosen is None else part[list(chosen)] for part in (answers.fit, answers.score))
    combined = np.empty(score.shape[1:])
    calibrated, complete = np.empty(score.shape[1:]), len(faces.fit_rows) > 0
    for known, asked in faces.parts:
        weights = ensemble.fit(fit[:, known], faces.fit_truth[known], how)
        combined[asked] = ensemble.combine(score[:, asked], how, weights)
        if len(known):
            temperature, why_not = temperature_if_any(ensemble.combine(fit[:, known], how, weights), faces.fit_truth[known])
            calibrated[asked] = apply_temperature(combined[asked], temperature)
            complete = complete and not why_not
    return combined, calibrated if complete else None


def combine_members(members: Sequence[Member], dataset: FaceDataset, plan: Plan, out: Path) -> Path:
    """Score the members and every way of combining them, write the report to `out`, and export the way that was asked for.

    Returns the folder of the exported ensemble. Raises TrainingError where fewer than two members are left.
    """
    cli.import_tensorflow()
    from fer_keras.evaluation.calibration import no_temperature_note, temperature_if_any
    from fer_keras.inference import ensemble

    settings = TrainConfig.from_dict(plan.settings)
    failed = read_state(out / "ensemble.json")["failed"]
    dropped = [{"name": name, "reason": reason} for name, reason in failed.items()]
    if not members:
        raise TrainingError(f"no member is left of {len(dropped)}; lower the learning rate (now {settings.lr:g})")
    members = [dataclasses.replace(member, half=plan.half) for member in members]
    labels = common_labels({member.name: member.labels for member in members})
    faces = choose_faces(members, dataset, plan.protocol, settings.seed)
    answers, parameters = ask_members(members, labels, dataset, faces, plan.mirror)
    judged = answers.fit if len(faces.fit_rows) else answers.score
    idle = [index for index in range(len(members)) if ensemble.learned_nothing(judged[index])]
    for index in idle:
        reason = f"learned nothing: it calls all {judged.shape[1]} faces {labels[int(judged[index, 0].argmax())]}"
        dropped.append({"name": members[index].name, "reason": reason})
        print(f"{members[index].name} is dropped: {reason}")
    if idle:
        kept = [index for index in range(len(members)) if index not in idle]
        if len(kept) < 2:
            raise TrainingError(
                f"{len(kept)} of {plan.members + len(plan.join)} members learned anything, an ensemble needs two; train longer "
                "(--epochs), with another --lr, or --join other models"
            )
        members = [members[index] for index in kept]
        faces = choose_faces(members, dataset, plan.protocol, settings.seed)
        answers, parameters = ask_members(members, labels, dataset, faces, plan.mirror)
    elif len(members) < 2:
        raise TrainingError(f"1 member is left ({members[0].name}), an ensemble needs two; train more, or --join other models")

    # From here on truth is in the ensemble's order of labels.
    position = np.array([labels.index(label) if label in labels else -1 for label in dataset.labels])
    used = np.unique(np.concatenate([faces.truth, faces.fit_truth]))
    if lacking := [dataset.labels[index] for index in used if position[index] < 0]:
        raise ModelError(
            f"the members lack {', '.join(lacking)}, which {dataset.path} has; prepare the data with "
            f"{words_to_map(lacking, labels)}"
        )
    faces = dataclasses.replace(faces, truth=position[faces.truth], fit_truth=position[faces.fit_truth])
    ways = COMBINATIONS if len(faces.fit_rows) else ("mean", "vote")
    weights = {how: ensemble.fit(answers.fit, faces.fit_truth, how) for how in ways}
    result, predictions = _figures(members, labels, parameters, dataset, faces, answers, weights, plan)
    shares, temperature = weights[plan.combine], 1.0
    if len(faces.fit_rows):
        temperature, why_not = temperature_if_any(ensemble.combine(answers.fit, plan.combine, shares), faces.fit_truth)
        if why_not:
            result["notes"].append(no_temperature_note("the ensemble", why_not))
    result = {**result, "dropped": dropped, "out": str(out)}
    write_json(out / "metrics.json", result)
    ensemble_report.write_tables(out, result, predictions)
    ensemble_report.write_report(out, result)
    print(ensemble_report.summary_text(result))
    print(f"Report: {out / 'report.html'}")

    exported = _export(members, shares, temperature, result, dataset, settings, plan)
    write_json(out / "metrics.json", {**result, "temperature": temperature, "exported": str(exported)})
    return exported


def _figures(
    members: Sequence[Member],
    labels: Sequence[str],
    parameters: Sequence[int],
    dataset: FaceDataset,
    faces: Faces,
    answers: Answers,
    weights: Mapping[str, np.ndarray | None],
    plan: Plan,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """What metrics.json holds, and the predictions of each scored face."""
    import pandas as pd

    from fer_keras.evaluation.calibration import expected_calibration_error
    from fer_keras.evaluation.classification import classification_metrics
    from fer_keras.evaluation.paired import accuracy_difference_interval, mcnemar, persons_note
    from fer_keras.evaluation.report import column_names
    from fer_keras.evaluation.resampling import holm
    from fer_keras.inference import ensemble

    people = scoring.identities(dataset, faces.rows)
    learnt = scoring.learnt_counts(dataset, faces.rows, faces.learnt)
    truth, count = faces.truth, len(members)
    singles = [classification_metrics(truth, one, labels) for one in answers.single]
    right = [one.argmax(axis=1) == truth for one in answers.single]
    best = int(np.argmax([one["accuracy"] for one in singles]))
    combined = {how: crossfitted(answers, faces, how) for how in weights}
    ways: dict[str, dict[str, Any]] = {}
    for how, (probabilities, calibrated) in combined.items():
        correct = probabilities.argmax(axis=1) == truth
        ways[how] = {
            **classification_metrics(truth, probabilities, labels),
            **scoring.identities_interval(correct, people),
            "ece_calibrated": None if calibrated is None else expected_calibration_error(calibrated, truth),
            "gain_over_best": float(correct.mean() - right[best].mean()),
            "gain_over_best_ci95": list(accuracy_difference_interval(right[best], correct, people)),
            **{f"mcnemar_{key}": value for key, value in mcnemar(right[best], correct, people).items()},
        }
    for entry, corrected in zip(ways.values(), holm([entry["mcnemar_p"] for entry in ways.values()]), strict=True):
        entry["mcnemar_p_holm"] = corrected
    correct = combined[plan.combine][0].argmax(axis=1) == truth
    entries = []
    for index, member in enumerate(members):
        rest = [other for other in range(count) if other != index]
        without = crossfitted(answers, faces, plan.combine, rest)[0].argmax(axis=1) == truth
        entries.append(
            {
                "name": member.name,
                "path": str(member.path),
                "architecture": member.describe(),
                "spec": member.spec.to_dict(),
                "seed": scoring.open_run(member.path).config["seed"] if member.is_run else None,
                "parameters": parameters[index],
                **{key: singles[index][key] for key in ("accuracy", "accuracy_ci95", "macro_f1", "log_loss", "ece")},
                **scoring.identities_interval(right[index], people),
                "weights": {how: float(shares[index]) for how, shares in weights.items() if shares is not None},
                "gain": float(correct.mean() - without.mean()),
                "gain_ci95": list(accuracy_difference_interval(without, correct, people)),
            }
        )
    known = scoring.persons_learnt_note("the ensemble", learnt["n_persons_learnt"])
    notes = [*plan.notes, *faces.notes, *known, *persons_note(people)]
    if any((member.spec.image_size, member.spec.channels) != input_of([one.spec for one in members]) for member in members):
        notes.append("members take pictures of different size or colour; the ensemble takes the largest and fits them inside")
    if plan.mirror:
        notes.append(
            "the ensemble asks its members for each face and its mirror image; single members are judged by the face alone"
        )
    notes.append(
        f"the best member ({members[best].name}) is the best on these very faces, which flatters it and not the ensemble; "
        f"{plan.combine} is exported because it was asked for, not because of these figures"
    )
    names = np.asarray(labels, dtype=object)
    probabilities = [f"p_{label}" for label in labels]
    columns = column_names([member.name for member in members], ("row", "true", "predicted", *probabilities), "member")
    table = pd.DataFrame(
        {
            "row": faces.rows,
            "true": names[truth],
            "predicted": names[combined[plan.combine][0].argmax(axis=1)],
            **dict(zip(probabilities, combined[plan.combine][0].T, strict=True)),
            **{columns[member.name]: names[one.argmax(axis=1)] for member, one in zip(members, answers.single, strict=True)},
        }
    )
    result = {
        "protocol": faces.protocol,
        "split": faces.split,
        "n": len(truth),
        "n_fit": len(faces.fit_rows),
        **learnt,
        "labels": list(labels),
        "data": {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "seed": plan.settings["seed"],
        "combine": plan.combine,
        "mirror": plan.mirror,
        "half": plan.half,
        "members": entries,
        "best_member": members[best].name,
        "combinations": ways,
        "disagreement": ensemble.disagreement(answers.single).tolist(),
        "notes": notes,
    }
    return result, table


def _trained_on(members: Sequence[Member], dataset: FaceDataset) -> dict[str, Any]:
    """What the members were trained on, for metadata.json; `choose_faces` reads it when the ensemble becomes a member."""
    rows, sources = zip(*(_learnt_from(member, dataset) for member in members), strict=True)
    strange = any(each is None for each in rows)
    return {
        "name": ", ".join(dict.fromkeys([dataset.name, *map(str, sources)])),
        **({} if strange else {"fingerprint": dataset.fingerprint, **scoring.learnt_from(dataset, *rows)}),
        "members": ", ".join(member.name for member in members),
    }


def _export(
    members: Sequence[Member],
    shares: np.ndarray | None,
    temperature: float,
    result: Mapping[str, Any],
    dataset: FaceDataset,
    settings: TrainConfig,
    plan: Plan,
) -> Path:
    """Write saved_models/NAME. Members of weight 0 are left out of it."""
    from fer_keras.models.ensemble import assemble
    from fer_keras.models.exported import export_model

    used = [index for index in range(len(members)) if shares is None or shares[index] > 0]
    inside = [members[index] for index in used]
    if out := [member.name for member in members if member not in inside]:
        print(f"Not in the exported model, as {plan.combine} gives them no weight: {', '.join(out)}")
    spec = ensemble_spec(
        [member.spec for member in inside],
        [member.labels for member in inside],
        plan.combine,
        None if shares is None else shares[used],
        plan.mirror,
    )
    described = [
        {
            **{
                key: result["members"][index][key]
                for key in ("name", "architecture", "seed", "parameters", "accuracy", "accuracy_ci95", "accuracy_ci95_identities")
                if key in result["members"][index]
            },
            "weight": weight,
        }
        for index, weight in zip(used, spec.options["weights"], strict=True)
    ]
    entry = {**result, **result["combinations"][plan.combine]}
    figure = train.figure_entry(entry, dict(result), dataset.name)
    metadata = {
        "labels": list(inside[0].labels),
        "crop_margin": float(dataset.info.get("crop_margin") or 0.0),
        "temperature": temperature,
        "trained_on": _trained_on(inside, dataset),
        "figures": [figure],
        "seed": settings.seed,
        "members": described,
        "combine": plan.combine,
    }
    model = assemble(spec, [member.keras_model() for member in inside])
    return train.export_under(
        settings,
        f"{dataset.name}-ensemble",
        lambda target: export_model(model, spec, target, metadata, settings.overwrite, plan.half),
    )
