import json
import time

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, demographic_parity_difference, equalized_odds_difference, equalized_odds_ratio
from scipy.stats import hypergeom
from scipy.stats.contingency import association
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from fer_keras.data.synthetic import describe_face
from fer_keras.errors import ConfigError, DataError, ModelError
from fer_keras.evaluation import fairness, fairness_plots, fairness_report, plots
from fer_keras.evaluation.calibration import expected_calibration_error
from fer_keras.evaluation.ordering import in_order
from fer_keras.labels import EMOTIONS

LABELS = ("neutral", "happiness", "anger")


def says(predicted, classes, rng, sure=0.6):
    """Probabilities of which the largest is that of the predicted class."""
    values = rng.dirichlet(np.ones(classes), len(predicted)) * (1 - sure)
    values[np.arange(len(predicted)), predicted] += sure
    return values


def mistaken(truth, rate, classes, rng):
    """The truth, but another class with a probability of `rate` (a number, or one a face)."""
    wrong = rng.random(len(truth)) < rate
    return np.where(wrong, (truth + rng.integers(1, classes, len(truth))) % classes, truth)


@pytest.fixture(scope="module")
def attributes():
    """Labels and groups of 1500 drawn faces, undrawn."""
    people = [describe_face(index, seed=3) for index in range(1500)]
    truth = np.array([EMOTIONS.index(person["label"]) for person in people])
    return truth, {
        column: np.array([person[column] for person in people]) for column in ("gender", "age_group", "glasses", "identity")
    }


def accuracy_gap(result, grouping, model="model"):
    gaps = result["models"][model]["groupings"][grouping]["gaps"]
    return next(gap for gap in gaps if gap["metric"] == "accuracy")


def all_gaps(result):
    return [gap for model in result["models"].values() for found in model["groupings"].values() for gap in found["gaps"]]


# labels corrupted for one group at a known rate


def test_labels_corrupted_for_one_group_are_found_with_the_group_and_their_rate(attributes):
    truth, groups = attributes
    rng = np.random.default_rng(0)
    by = {column: groups[column] for column in ("gender", "age_group")}
    predicted = mistaken(truth, 0.1, 8, rng)
    label = mistaken(truth, np.where(groups["gender"] == "Female", 0.25, 0.0), 8, rng)
    result = fairness.audit(label, {"model": says(predicted, 8, rng)}, EMOTIONS, by, clusters=groups["identity"])
    gap = accuracy_gap(result, "gender")
    # A corrupted label is right by chance where the mistaken model says just that one: 0.9 -> 0.9 * 0.75 + 0.1 * 0.25 / 7.
    expected = 0.9 - (0.9 * 0.75 + 0.1 * 0.25 / 7)
    assert gap["shown"] and gap["worst"] == "Female" and gap["p_corrected"] < 0.05
    assert gap["low"] < expected < gap["high"]
    assert gap["adjusted"]["low"] < expected < gap["adjusted"]["high"]
    assert not accuracy_gap(result, "age_group")["shown"]
    sentences = fairness_report.findings(result)
    assert any("accuracy differs by gender" in line and "Female is lower by" in line for line in sentences)
    assert any("no difference in accuracy by age_group shown" in line for line in sentences)


def test_one_age_group_among_four_is_found(attributes):
    truth, groups = attributes
    rng = np.random.default_rng(1)
    victim = sorted(set(groups["age_group"]))[1]
    label = mistaken(truth, np.where(groups["age_group"] == victim, 0.3, 0.0), 8, rng)
    predicted = mistaken(truth, 0.1, 8, rng)
    result = fairness.audit(label, {"model": says(predicted, 8, rng)}, EMOTIONS, {"age_group": groups["age_group"]})
    gap = accuracy_gap(result, "age_group")
    assert gap["shown"] and gap["worst"] == victim == gap["clearest"]["worst"]
    assert gap["low"] < 0.9 - (0.9 * 0.7 + 0.1 * 0.3 / 7) < gap["high"]


def test_without_a_bias_19_of_20_seeds_flag_nothing(attributes):
    four = np.flatnonzero(attributes[0] < 4)  # four emotions are quicker
    truth, groups = attributes[0][four], {column: values[four] for column, values in attributes[1].items()}
    flagged = 0
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        chosen = rng.choice(len(truth), 450, replace=False)
        predicted = mistaken(truth[chosen], 0.25, 4, rng)
        by = {column: groups[column][chosen] for column in ("gender", "glasses")}
        given = {"clusters": groups["identity"][chosen], "repeats": 100, "permutations": 1500, "seed": seed}
        result = fairness.audit(truth[chosen], {"model": says(predicted, 4, rng)}, EMOTIONS[:4], by, **given)
        assert result["comparisons"] > 20
        flagged += any(gap["shown"] for gap in all_gaps(result))
    assert flagged <= 1


def mixed(seed, count=900):
    """Women are shown happier than men; happy faces are easier, for everybody alike."""
    rng = np.random.default_rng(seed)
    gender = rng.choice(["Female", "Male"], count)
    happier = rng.choice(3, count, p=(0.2, 0.7, 0.1))
    truth = np.where(gender == "Female", happier, rng.choice(3, count, p=(0.5, 0.2, 0.3)))
    predicted = mistaken(truth, np.array([0.3, 0.05, 0.5])[truth], 3, rng)
    return truth, gender, says(predicted, 3, rng)


def test_another_mix_of_emotions_is_not_called_another_treatment():
    truth, gender, probabilities = mixed(0)
    gap = accuracy_gap(fairness.audit(truth, {"model": probabilities}, LABELS, {"gender": gender}), "gender")
    assert gap["low"] > 0.1 and gap["worst"] == "Male"  # as it is, the gap is large and sure
    assert gap["adjusted"]["low"] < 0 < gap["adjusted"]["high"] and not gap["shown"]


def test_a_famous_person_is_not_taken_for_a_group():
    rng = np.random.default_rng(0)
    person = np.concatenate([np.repeat(0, 120), np.arange(1, 301)])
    gender = np.where(person % 2 == 0, "Male", "Female")  # the famous one is a man, and all his pictures are misread
    truth = rng.integers(0, 3, len(person))
    predicted = mistaken(truth, np.where(person == 0, 0.95, 0.2), 3, rng)
    given = ({"model": says(predicted, 3, rng)}, LABELS, {"gender": gender})
    single = accuracy_gap(fairness.audit(truth, *given), "gender")
    result = fairness.audit(truth, *given, clusters=person.astype(str))
    whole = accuracy_gap(result, "gender")
    assert single["shown"] and not whole["shown"] and result["units"] == "identities"
    assert whole["high"] - whole["low"] > 2 * (single["high"] - single["low"])
    sentences = " ".join(fairness_report.findings(result))
    assert "Male (151 people, one with 120 of 270 faces); intervals are rough" in sentences


# figures


@pytest.fixture(scope="module")
def audited():
    """600 faces, two columns with unknown values, one small group; best and final model."""
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, 600)
    gender = rng.choice(["Female", "Male", "unknown"], 600, p=(0.5, 0.4, 0.1))
    age = rng.choice(["child", "adult", "senior"], 600, p=(0.3, 0.68, 0.02))
    models = {name: says(mistaken(truth, rate, 3, rng), 3, rng) for name, rate in (("best", 0.2), ("final", 0.3))}
    groups = {"gender": gender, "age_group": age}
    return truth, models, groups, fairness.audit(truth, models, LABELS, groups, permutations=2000)


def test_figures_of_groups_are_those_of_scikit_learn_through_fairlearn(audited):
    truth, models, groups, result = audited
    known = groups["gender"] != "unknown"
    for name, probabilities in models.items():
        predicted = probabilities.argmax(axis=1)
        scores = {
            "accuracy": accuracy_score,
            "micro_precision": lambda t, p: precision_score(t, p, average="micro"),
            "micro_f1": lambda t, p: f1_score(t, p, average="micro"),
            "macro_precision": lambda t, p: precision_score(t, p, average="macro"),
            "macro_recall": lambda t, p: recall_score(t, p, average="macro"),
            "macro_f1": lambda t, p: f1_score(t, p, average="macro"),
            "recall anger": lambda t, p: recall_score(t == 2, p == 2),
            "false_positive_rate anger": lambda t, p: (p[t != 2] == 2).mean(),
            "selection_rate anger": lambda t, p: (p == 2).mean(),
        }
        frame = MetricFrame(
            metrics=scores, y_true=truth[known], y_pred=predicted[known], sensitive_features=groups["gender"][known]
        )
        found = result["models"][name]["groupings"]["gender"]["groups"]
        for group in ("Female", "Male"):
            mine = groups["gender"] == group
            for figure in scores:
                assert found[group][figure] == pytest.approx(frame.by_group.loc[group, figure]), figure
            assert found[group]["ece"] == pytest.approx(expected_calibration_error(probabilities[mine], truth[mine]), abs=1e-6)
            assert found[group]["confusion"] == confusion_matrix(truth[mine], predicted[mine]).tolist()
            low, high = found[group]["ci95"]["accuracy"]
            assert low < found[group]["accuracy"] < high
        gap = accuracy_gap(result, "gender", name)
        assert gap["gap"] == pytest.approx(frame.difference()["accuracy"])
        assert gap["ratio"] == pytest.approx(frame.ratio()["accuracy"])
        assert gap["worst"] == frame.by_group["accuracy"].idxmin()


def test_parity_is_what_fairlearn_calls_it(audited):
    truth, models, groups, result = audited
    known = groups["gender"] != "unknown"
    predicted = models["best"].argmax(axis=1)
    for index, label in enumerate(LABELS):
        given = (truth[known] == index, predicted[known] == index)
        found = result["models"]["best"]["groupings"]["gender"]["parity"][label]
        named = {"sensitive_features": groups["gender"][known]}
        assert found["demographic_parity_difference"] == pytest.approx(demographic_parity_difference(*given, **named))
        assert found["equalized_odds_difference"] == pytest.approx(equalized_odds_difference(*given, **named))
        assert found["equalized_odds_ratio"] == pytest.approx(equalized_odds_ratio(*given, **named))


def test_unknown_is_counted_and_small_groups_are_shown_but_not_compared(audited):
    _, _, groups, result = audited
    assert result["groupings"]["gender"]["unknown"] == (groups["gender"] == "unknown").sum()
    age = result["groupings"]["age_group"]["groups"]
    assert age["senior"]["small"] and not age["adult"]["small"]
    assert sum(age["senior"]["labels"].values()) == age["senior"]["n"] == (groups["age_group"] == "senior").sum()
    for model in result["models"].values():
        assert model["groupings"]["age_group"]["groups"]["senior"]["accuracy"] is not None
        assert all("senior" not in gap["groups"] for gap in model["groupings"]["age_group"]["gaps"])
    sentences = " ".join(fairness_report.findings(result))
    assert "senior (" in sentences and "left out of all comparisons" in sentences
    assert f"gender is unknown for {(groups['gender'] == 'unknown').sum()} of 600 faces" in sentences
    assert set(result["groupings"]) == {"gender", "age_group", "gender & age_group"}
    assert "Female & child" in result["groupings"]["gender & age_group"]["groups"]


def test_corrected_p_values_are_those_of_holm_over_the_whole_report(audited):
    tested = [gap for gap in all_gaps(audited[3]) if gap["tested"]]
    assert len(tested) == audited[3]["comparisons"]
    p = np.array([gap["p"] for gap in tested])
    order = np.argsort(p)
    running = 0.0
    for rank, place in enumerate(order):
        running = max(running, p[place] * (len(p) - rank))
        assert tested[place]["p_corrected"] == pytest.approx(min(running, 1.0))


def test_a_result_is_json_and_the_same_seed_gives_it_again(audited):
    truth, models, groups, result = audited
    again = fairness.audit(truth, models, LABELS, groups, permutations=2000)
    assert json.loads(json.dumps(result, allow_nan=False)) == again
    other = fairness.audit(truth, {"best": models["best"]}, LABELS, groups, permutations=2000, seed=1)
    assert accuracy_gap(other, "gender", "best")["low"] != accuracy_gap(result, "gender", "best")["low"]


def test_nothing_in_words_promises_fairness(audited):
    text = " ".join([*fairness_report.findings(audited[3]), fairness_report.LIMITS, fairness_report.method(audited[3])]).lower()
    assert "unbiased" not in text and "fair" not in text.replace("fairlearn", "")


def test_a_class_called_like_a_column_has_one_of_its_own(audited):
    result = dict(audited[3])
    named = {LABELS[0]: "n", LABELS[1]: "share"}
    result["labels"] = [named.get(label, label) for label in result["labels"]]
    result["groupings"] = {
        name: {**grouping, "groups": {
            group: {**entry, "labels": {named.get(label, label): count for label, count in entry["labels"].items()}}
            for group, entry in grouping["groups"].items()
        }}
        for name, grouping in result["groupings"].items()
    }  # fmt: skip
    plain, counts = fairness_report.counts_frame(audited[3]), fairness_report.counts_frame(result)
    assert counts["n"].tolist() == plain["n"].tolist()
    assert counts["label n"].equals(plain[LABELS[0]].rename("label n"))
    assert counts["label share"].equals(plain[LABELS[1]].rename("label share"))


def test_tables_and_figures_hold_every_group(audited):
    result = audited[3]
    counts = fairness_report.counts_frame(result)
    assert counts[(counts["grouping"] == "gender") & (counts["group"] == "Male")]["n"].item() > 200
    assert len(fairness_report.groups_frame(result, intersections=False)) == 2 * 5
    assert len(fairness_report.gaps_frame(result)) == len(all_gaps(result))
    assert fairness_report.confusions_frame(result).groupby(["model", "grouping"])["n"].sum()["best", "age_group"] == 600
    groups = {name: model["groupings"]["gender & age_group"]["groups"] for name, model in result["models"].items()}
    for figure in (
        fairness_plots.plot_figures_by_group(groups),
        fairness_plots.plot_emotions_by_group(groups["best"], LABELS, 10),
        fairness_plots.plot_confusions_by_group(groups["best"], LABELS),
    ):
        assert plots.png_bytes(figure)[:4] == b"\x89PNG"


# bootstrap_gap and compare_shares


def test_interval_of_a_gap_has_the_width_that_theory_says():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], [400, 300])
    correct = rng.random(700) < np.where(groups == "a", 0.8, 0.7)
    found = fairness.bootstrap_gap(correct, groups, repeats=4000)
    a, b = correct[:400].mean(), correct[400:].mean()
    half = 1.96 * np.sqrt(a * (1 - a) / 400 + b * (1 - b) / 300)
    assert found["gap"] == pytest.approx(a - b) and (found["worst"], found["best"]) == ("b", "a")
    assert [found["low"], found["high"]] == pytest.approx([a - b - half, a - b + half], abs=0.006)
    assert found["groups"]["b"]["n"] == 300 and found["groups"]["b"]["accuracy"] == pytest.approx(b)
    assert found["adjusted"] is None


def test_four_pictures_of_each_person_tell_no_more_than_one():
    rng = np.random.default_rng(0)
    groups, correct = np.repeat(["a", "b"], 150), rng.random(300) < 0.7
    one = fairness.bootstrap_gap(correct, groups)
    people = np.repeat(np.arange(300), 4).astype(str)
    four = fairness.bootstrap_gap(np.repeat(correct, 4), np.repeat(groups, 4), clusters=people)
    assert four["high"] - four["low"] == pytest.approx(one["high"] - one["low"], rel=0.1)
    assert (one["units"], four["units"]) == ("faces", "identities")


def test_a_gap_of_shares_is_never_beyond_one():
    found = fairness.bootstrap_gap(np.array([1, 1, 0, 1, 1, 0, 0, 0], bool), np.repeat(["a", "b"], 4), repeats=200)
    assert (found["gap"], found["high"]) == (0.5, 1) and -1 <= found["low"] < 0


def test_gap_at_one_mix_of_labels_leaves_out_what_the_mix_does():
    truth, gender, probabilities = mixed(1, 4000)
    found = fairness.bootstrap_gap(probabilities.argmax(axis=1) == truth, gender, labels=np.array(LABELS)[truth])
    assert found["low"] > 0.1 and abs(found["adjusted"]["gap"]) < 0.04


def test_thousand_repeats_of_many_faces_take_seconds():
    rng = np.random.default_rng(0)
    groups, correct = rng.choice(["a", "b", "c"], 30000), rng.random(30000) < 0.7
    start = time.perf_counter()
    fairness.bootstrap_gap(correct, groups, labels=rng.integers(0, 8, 30000), repeats=1000)
    assert time.perf_counter() - start < 10


def test_a_gap_needs_two_known_groups():
    with pytest.raises(DataError, match="needs two groups or more, got only 'a'"):
        fairness.bootstrap_gap(np.ones(3, bool), np.array(["a", "a", "unknown"]))
    with pytest.raises(DataError, match="no known group"):
        fairness.bootstrap_gap(np.ones(2, bool), np.array(["", "unknown"]))


def test_shares_are_compared_between_large_groups_only():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c", "unknown"], [200, 200, 5, 50])
    missed = rng.random(455) < np.where(groups == "a", 0.3, 0.05)
    found = fairness.compare_shares(missed, groups, repeats=200)
    assert found["small"] == {"c": 5} and set(found["groups"]) == {"a", "b"} and found["p"] < 0.001
    assert fairness.compare_shares(missed[:205], groups[195:400], min_n=150, repeats=200)["p"] is None


def test_how_many_faces_persons_bring_along_does_not_decide_the_p_value_of_a_few_events():
    """60 women with 143 faces, 60 men with 157. An event of six women each is as likely as six of 120 drawn are of one half."""
    faces = np.concatenate([np.repeat([2, 3], [37, 23]), np.repeat([2, 3], [23, 37])])
    person = np.repeat(np.arange(120), faces)
    gender = np.where(person < 60, "Female", "Male")
    event = np.isin(person, [0, 10, 20, 40, 45, 50]) & (np.diff(person, prepend=-1) > 0)
    exact = hypergeom(120, 60, 6).pmf([0, 6]).sum()
    given = {"clusters": person.astype(str), "repeats": 100}
    assert fairness.compare_shares(event, gender, **given)["p"] == pytest.approx(exact, rel=0.15)
    probabilities = says(np.where(event, 2, 0), 3, np.random.default_rng(0))
    result = fairness.audit(np.zeros(len(event), int), {"model": probabilities}, LABELS, {"gender": gender}, **given)
    found = {(gap["metric"], gap["label"]): gap["p"] for gap in all_gaps(result) if gap["tested"] and gap["metric"] != "ece"}
    assert set(found) == {("accuracy", None), ("recall", "neutral"), ("false_positive_rate", "anger")}
    assert list(found.values()) == pytest.approx([exact] * 3, rel=0.15)


def test_groups_of_two_columns_whose_names_run_together_stay_apart():
    rng = np.random.default_rng(0)
    first, second = rng.choice(["X", "X & Y"], 400), rng.choice(["Y & Z", "Z"], 400)
    truth = rng.integers(0, 3, 400)
    result = fairness.audit(truth, {"model": np.eye(3)[truth]}, LABELS, {"a": first, "b": second}, repeats=100, permutations=100)
    found = {name: group["n"] for name, group in result["groupings"]["a & b"]["groups"].items()}
    counts = {(one, other): ((first == one) & (second == other)).sum() for one in ("X", "X & Y") for other in ("Y & Z", "Z")}
    assert sorted(found.values()) == sorted(counts.values()) and len(found) == 4
    assert found['X & "Y & Z"'] == counts["X", "Y & Z"] and found['"X & Y" & Z'] == counts["X & Y", "Z"]


# people of one group with more faces each than those of another


def persons_of(counts):
    """(groups, persons) of {group: {faces of a person: persons}}."""
    each = [(group, faces) for group, sizes in counts.items() for faces, people in sizes.items() for _ in range(people)]
    many = [faces for _, faces in each]
    return np.repeat([group for group, _ in each], many), np.repeat([f"person {index}" for index in range(len(each))], many)


@pytest.mark.parametrize("faces", [1, 3, 5])
def test_a_large_gap_is_shown_though_people_of_the_groups_have_other_numbers_of_faces(faces):
    rng = np.random.default_rng(0)
    groups, people = persons_of({"video": {8: 60}, "web": {faces: 300 // faces}})
    truth = rng.integers(0, 3, len(groups))
    predicted = mistaken(truth, np.where(groups == "video", 0.55, 0.05), 3, rng)
    result = fairness.audit(truth, {"model": says(predicted, 3, rng)}, LABELS, {"from": groups}, clusters=people, repeats=100)
    assert accuracy_gap(result, "from")["shown"] and accuracy_gap(result, "from")["p"] < 0.001
    # 480 and 300 faces; those of video keep as many as people of web have: 1, 2 or 3 count as alike, and 4 to 7.
    tested = result["groupings"]["from"]["n_tested"]
    assert tested == 300 + 60 * {1: 1, 3: 3, 5: 7}[faces]
    sentences = " ".join(fairness_report.findings(result))
    assert f"tests look at {tested} of 780 faces" in sentences
    shares = fairness.compare_shares(predicted != truth, groups, clusters=people, repeats=100)
    assert shares["p"] < 0.001 and shares["n_tested"] == tested


def test_groups_of_people_with_other_numbers_of_faces_are_seldom_called_different_where_they_are_not(monkeypatch):
    """Ten people with eight faces that go together, 200 with one: 5% of 100 tries is 5, and 11 are past chance (p < 0.02)."""
    monkeypatch.setattr(fairness, "_PERMUTATIONS", 400)
    rng, alarms = np.random.default_rng(2), 0
    groups, people = persons_of({"a": {8: 10}, "b": {1: 200}})
    person = np.unique(people, return_inverse=True)[1]
    for seed in range(100):
        missed = rng.random(len(groups)) > 1 / (1 + np.exp(-1 - rng.normal(0, 1.5, 210)[person]))
        alarms += fairness.compare_shares(missed, groups, clusters=people, repeats=100, seed=seed)["p"] < 0.05
    assert alarms <= 10


def test_what_could_not_be_exchanged_is_called_untested_with_the_reason():
    """Women are mostly neutral and men mostly happy: no two people are alike in emotion. And of two people each, C(4, 2) = 6."""
    rng = np.random.default_rng(0)
    groups, people = persons_of({"f": {3: 40}, "m": {3: 40}})
    truth = np.where(groups == "f", np.tile([0, 0, 1], 80), np.tile([1, 1, 0], 80))
    predicted = np.where(groups == "f", truth, 2)
    result = fairness.audit(truth, {"model": says(predicted, 3, rng)}, LABELS, {"sex": groups}, clusters=people, repeats=100)
    gap = accuracy_gap(result, "sex")
    assert gap["gap"] == 1 and gap["p"] is None and not gap["tested"] and not gap["shown"]
    sentences = " ".join(fairness_report.findings(result))
    assert "whether accuracy differs by sex is not tested: too few people" in sentences and "no difference" not in sentences
    assert set(fairness_report.gaps_summary_frame(result)["difference"]) == {"not tested"}
    groups, people = persons_of({"f": {20: 2}, "m": {20: 2}})
    found = fairness.compare_shares(groups == "f", groups, clusters=people, repeats=100)
    assert found["gap"] == 1 and found["p"] is None
    (sentence,) = fairness_report.detector_findings({"sex": found}, "haar")
    assert "misses by sex can't be compared: too few people" in sentence and "The largest gap is 1.000" in sentence


def test_a_few_people_with_as_many_faces_do_not_stand_for_all():
    """Two of web are among 60 of video with eight faces, and 300 alone with one: exchanges of the two tell next to nothing."""
    rng = np.random.default_rng(0)
    groups, people = persons_of({"video": {8: 60}, "web": {1: 300, 8: 2}})
    wrong = rng.random(len(groups)) < np.where(groups == "video", 0.5, 0.05)
    found = fairness.compare_shares(wrong, groups, clusters=people, repeats=100)
    assert found["p"] < 0.001 and found["n_tested"] == 362


# the data itself


def test_measures_of_data_bias_are_those_of_their_definitions():
    table = np.array([[30, 10, 0], [20, 40, 0]])
    cells = [(group, label) for group, line in enumerate(table) for label, count in enumerate(line) for _ in range(count)]
    groups, truth = (np.array(values) for values in zip(*cells, strict=True))
    names = np.append(np.array(["Female", "Male"])[groups], "unknown")
    found = fairness.dataset_bias(np.append(truth, 0), names, LABELS)
    assert (found["n"], found["unknown"]) == (100, 1)
    assert found["counts"]["Male"] == {"neutral": 20, "happiness": 40, "anger": 0}
    assert found["effective_groups"] == pytest.approx(np.exp(-(0.4 * np.log(0.4) + 0.6 * np.log(0.6))))
    plain = association(table[:, :2], method="cramer")
    assert found["cramers_v_uncorrected"] == pytest.approx(plain)
    phi2 = max(0, plain**2 - 1 / 99)
    assert found["cramers_v"] == pytest.approx(np.sqrt(phi2 / (2 - 1 / 99 - 1)))
    assert found["npmi"]["Female"]["neutral"] == pytest.approx(np.log(0.3 / (0.4 * 0.5)) / -np.log(0.3))
    assert found["npmi"]["Female"]["anger"] is None


def test_data_bias_of_independent_and_of_one_to_one_groups():
    truth, even = np.tile([0, 1], 50), np.repeat(["a", "b"], 50)
    apart = fairness.dataset_bias(truth, even, LABELS)
    assert apart["nmi"] == pytest.approx(0, abs=1e-9) and apart["cramers_v"] == 0
    assert apart["effective_groups"] == pytest.approx(2) and apart["evenness"] == pytest.approx(1)
    same = fairness.dataset_bias(truth, np.where(truth == 0, "a", "b"), LABELS)
    assert same["nmi"] == pytest.approx(1) and same["cramers_v"] == pytest.approx(1, abs=0.01)
    assert same["npmi"]["a"]["neutral"] == pytest.approx(1) and same["npmi"]["a"]["happiness"] == -1
    alone = fairness.dataset_bias(truth, np.full(100, "a"), LABELS)
    assert alone["effective_groups"] == pytest.approx(1) and alone["cramers_v"] is None


# bad input


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (["unknown"] * 40, DataError, "gender is unknown for all 40 faces"),
        (["Male"] * 30 + ["unknown"] * 10, DataError, r"are Male \(30 of 40\); two groups"),
        ([str(number) for number in range(60)], ConfigError, "gender has 60 values"),
    ],
)
def test_columns_that_can_not_be_compared_are_refused(values, error, message):
    truth = np.zeros(len(values), int)
    with pytest.raises(error, match=message):
        fairness.audit(truth, {"model": np.eye(3)[truth]}, LABELS, {"gender": np.array(values)})


def test_groups_are_listed_by_the_numbers_in_their_names_and_figures_stay(audited):
    """With the names in the order that letters give them, the same draws belong to the same groups."""
    truth, models, groups, _ = audited
    ages = np.array(["0-2", "10-19", "3-9"])[np.arange(len(truth)) % 3]
    letters = dict(zip(("0-2", "10-19", "3-9"), "abc", strict=True))
    given = {"models": {"best": models["best"]}, "labels": LABELS}
    found, same = (
        fairness.audit(truth, *given.values(), {"gender": groups["gender"], "age": named}, permutations=100)
        for named in (ages, np.vectorize(letters.get)(ages))
    )
    listed = ["0-2", "3-9", "10-19"]
    assert list(found["groupings"]["age"]["groups"]) == listed
    assert list(found["groupings"]["gender & age"]["groups"])[:3] == [f"Female & {age}" for age in listed]
    mine, theirs = (result["models"]["best"]["groupings"]["age"] for result in (found, same))
    assert list(mine["groups"]) == listed
    assert mine["groups"] == {age: theirs["groups"][letter] for age, letter in letters.items()}
    assert [gap["p"] for gap in mine["gaps"]] == [gap["p"] for gap in theirs["gaps"]]
    data = fairness.dataset_bias(truth, ages, LABELS)
    assert list(data["counts"]) == list(data["npmi"]) == listed
    assert data["counts"]["10-19"] == {label: int(((ages == "10-19") & (truth == at)).sum()) for at, label in enumerate(LABELS)}
    shares = fairness.compare_shares(truth == 0, ages, min_n=10)["groups"]
    assert list(shares) == listed
    assert shares["10-19"]["accuracy"] == pytest.approx((truth[ages == "10-19"] == 0).mean())


@pytest.mark.parametrize(
    "names",
    [
        ["0-2", "3-9", "10-19", "100+", "unknown"],
        ["Female & 9", "Female & 10", "Male & 2"],
        ["01", "1", "2", "a", "a1", "a1b", "a02", "a10", "²"],
        ["", "70+", "adult", "child"],
    ],
)
def test_names_are_in_the_order_that_a_reader_expects(names):
    assert in_order(reversed(names)) == names


def test_too_few_repeats_a_negative_seed_and_a_failed_model_are_refused():
    truth, groups = np.arange(40) % 3, {"gender": np.repeat(["a", "b"], 20)}
    with pytest.raises(ConfigError, match="needs 100 repeats or more, got 10"):
        fairness.audit(truth, {"model": np.eye(3)[truth]}, LABELS, groups, repeats=10)
    with pytest.raises(ConfigError, match="a seed is 0 or more, got -1"):
        fairness.audit(truth, {"model": np.eye(3)[truth]}, LABELS, groups, seed=-1)
    with pytest.raises(ModelError, match="no finite probabilities for 40 of 40 faces"):
        fairness.audit(truth, {"model": np.full((40, 3), np.nan)}, LABELS, groups)


def test_groups_that_are_all_small_give_a_report_without_conclusions():
    truth, groups = np.arange(40) % 3, {"gender": np.repeat(["a", "b"], 20)}
    result = fairness.audit(truth, {"model": np.eye(3)[truth]}, LABELS, groups)
    assert result["comparisons"] == 0 and all_gaps(result) == []
    assert any("nothing could be compared" in line for line in fairness_report.findings(result))
