"""Several models in one graph: it says what its members say, whatever their size, colour and label order."""

import json

import numpy as np
import pytest

from fer_keras.data.images import resize, to_channels
from fer_keras.errors import ConfigError, ModelError
from fer_keras.models.ensemble import assemble, common_labels, ensemble_spec, resize_matrix
from fer_keras.models.exported import export_model, load_exported, load_keras_model, read_metadata
from fer_keras.models.registry import ModelSpec, list_models

LABELS = ("neutral", "happiness", "anger")
SMALL = {"layers": [6], "convs_per_stage": 1}
MEMBERS = [
    (ModelSpec("cnn", 3, 32, 1, SMALL), LABELS),
    (ModelSpec("cnn", 3, 24, 3, {**SMALL, "batch_norm": False}), ("anger", "neutral", "happiness")),
    (ModelSpec("random_cnn", 3, 40, 1, {"draw": 2, "layers": [6, 8]}), ("happiness", "anger", "neutral")),
]


@pytest.fixture(scope="module")
def members():
    """Untrained, but with logits far enough apart that their answers differ."""
    models = [spec.build(seed=seed) for seed, (spec, _) in enumerate(MEMBERS)]
    for model in models:
        kernel, bias = model.get_layer("logits").get_weights()
        model.get_layer("logits").set_weights([kernel * 8, bias])
    return models


@pytest.fixture(scope="module")
def faces():
    """Uint8 (12, 40, 40, 3), smooth as pictures are."""
    coarse = np.random.default_rng(1).integers(0, 256, (12, 5, 5, 3), dtype=np.uint8)
    return np.stack([resize(face, 40) for face in coarse])


@pytest.fixture(scope="module")
def answers(members, faces):
    return ask(members, faces)


def ask(members, faces):
    """What each member says by itself, in the order of LABELS: float (3, 12, 3)."""
    told = []
    for model, (spec, labels) in zip(members, MEMBERS, strict=True):
        own = np.stack([resize(to_channels(face, spec.channels), spec.image_size) for face in faces])
        said = np.asarray(model(own.astype(np.float32)))
        told.append(np.stack([said[:, labels.index(label)] for label in LABELS], axis=1))
    return np.stack(told)


def by_hand(answers, combine, weights):
    if combine != "vote":
        return np.einsum("m,mnk->nk", np.array(weights) / np.sum(weights), answers)
    votes = np.zeros(answers.shape[1:])
    for member in answers:
        votes[np.arange(len(member)), member.argmax(axis=1)] += 1
    blended = votes + 0.75 * answers.mean(axis=0)  # three members: m / (m + 1) of a vote
    return blended / blended.sum(axis=1, keepdims=True)


def spec_of(combine, weights=None):
    return ensemble_spec([spec for spec, _ in MEMBERS], [labels for _, labels in MEMBERS], combine, weights)


@pytest.fixture(scope="module", params=[("mean", None), ("vote", None), ("weighted", [3.0, 1.0, 4.0])], ids=lambda case: case[0])
def exported(request, members, tmp_path_factory):
    combine, weights = request.param
    spec = spec_of(combine, weights)
    details = {
        "labels": LABELS,
        "trained_on": "nothing",
        "temperature": 1.5,
        "members": [{"name": "one", "architecture": "cnn", "weight": 0.5, "accuracy": 0.75}],
        "combine": combine,
    }
    path = export_model(assemble(spec, members), spec, tmp_path_factory.mktemp("models") / "together", details)
    return path, combine, weights or [1, 1, 1]


def test_one_saved_model_says_what_its_members_say_together(exported, answers, faces):
    path, combine, weights = exported
    model = load_exported(path)
    assert (model.image_size, model.channels, model.labels) == (40, 3, LABELS)
    # Resizing inside rounds as Pillow does but for single brightness steps.
    np.testing.assert_allclose(model.predict(faces), by_hand(answers, combine, weights), atol=2e-3)


def test_the_keras_model_is_rebuilt_from_the_metadata_alone(exported, answers, faces):
    path, combine, weights = exported
    rebuilt = load_keras_model(path)
    assert ModelSpec.from_dict(json.loads(json.dumps(read_metadata(path)["spec"]))).options["combine"] == combine
    np.testing.assert_allclose(rebuilt(faces.astype(np.float32)), by_hand(answers, combine, weights), atol=2e-3)


@pytest.mark.parametrize("exported", [("vote", None)], indirect=True, ids=["vote"])  # has all that the others have, and more
def test_openvino_takes_the_same_folder(exported, faces):
    pytest.importorskip("openvino")
    from fer_keras.inference.runtimes import open_runtime

    path, _, _ = exported
    name, predict = open_runtime(path, read_metadata(path), "openvino")  # compares itself with TensorFlow
    assert name == "openvino"
    np.testing.assert_allclose(predict(faces), load_exported(path).predict(faces), atol=1e-4)


def test_with_mirror_each_member_answers_for_both_sides(members, faces, tmp_path):
    pytest.importorskip("openvino")
    from fer_keras.inference.runtimes import open_runtime

    shares = [3.0, 1.0, 4.0]
    spec = ensemble_spec([spec for spec, _ in MEMBERS], [labels for _, labels in MEMBERS], "weighted", shares, mirror=True)
    path = export_model(assemble(spec, members), spec, tmp_path / "both", {"labels": LABELS, "trained_on": "nothing"})
    mirrored = np.stack([np.fliplr(face) for face in faces])
    expected = by_hand((ask(members, faces) + ask(members, mirrored)) / 2, "weighted", shares)
    said = load_exported(path).predict(faces)
    np.testing.assert_allclose(said, expected, atol=2e-3)
    np.testing.assert_allclose(load_exported(path).predict(mirrored), said, atol=1e-3)
    assert np.abs(said - by_hand(ask(members, faces), "weighted", shares)).max() > 0.005  # the other side says something else
    np.testing.assert_allclose(open_runtime(path, read_metadata(path), "openvino")[1](faces), said, atol=1e-4)
    assert "each on the face and its mirror image" in (path / "README.md").read_text()


def test_the_model_card_lists_the_members_instead_of_their_specs(exported):
    path, combine, _ = exported
    card = (path / "README.md").read_text()
    assert f"- Architecture: 3 models as one, combined by {combine}\n" in card
    assert "| one | cnn | 0.5000 | 0.7500 |" in card


@pytest.mark.parametrize(("before", "after"), [(48, 24), (40, 32), (24, 40), (48, 47)])
def test_resizing_in_the_graph_is_that_of_pictures(before, after):
    face = np.random.default_rng(0).integers(0, 256, (before, before, 1), dtype=np.uint8)
    matrix = resize_matrix(before, after)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    rows = np.clip(np.rint(face[:, :, 0].astype(np.float32) @ matrix.T), 0, 255)
    both = np.clip(np.rint(matrix @ rows), 0, 255)
    assert np.abs(both - resize(face, after)[:, :, 0].astype(float)).max() <= 1


def test_an_ensemble_can_be_a_member_of_another():
    inner = spec_of("vote")
    outer = ensemble_spec([inner, MEMBERS[0][0]], [LABELS, LABELS], "mean")
    assert ModelSpec.from_dict(json.loads(json.dumps(outer.to_dict()))) == outer
    assert outer.build().output_shape == (None, 3)


def test_labels_that_differ_are_named_with_the_member_that_has_them():
    with pytest.raises(ModelError, match="two lacks anger and also has fear, compared with one .*neutral, happiness, anger"):
        common_labels({"one": LABELS, "two": ("neutral", "happiness", "fear")})
    assert common_labels({"one": LABELS, "two": LABELS[::-1]}) == LABELS


def test_an_ensemble_is_not_offered_where_a_model_is_to_be_trained():
    assert "ensemble" not in list_models()
    with pytest.raises(ConfigError, match="made of models that exist; make one with python -m training.ensemble"):
        ModelSpec("ensemble", 3, 48, 1)


@pytest.mark.parametrize(
    ("combine", "weights", "message"),
    [
        ("median", None, "combine of model ensemble must be one of mean, vote, weighted, greedy"),
        ("weighted", [0, 0, 0], "not all 0"),
        ("weighted", [1, -1, 1], "weights of model ensemble must be a list of numbers of 0 or more"),
        ("mean", [1, 2, 3], "an ensemble by mean has equal weights"),
    ],
)
def test_combinations_that_do_not_fit_are_refused(combine, weights, message):
    with pytest.raises(ConfigError, match=message):
        spec_of(combine, weights)


def test_wrong_members_are_refused():
    good = spec_of("mean").options
    with pytest.raises(ConfigError, match="needs as many weights with sum 1"):
        ModelSpec("ensemble", 3, 40, 3, {**good, "weights": [1.0]})
    with pytest.raises(ConfigError, match="member 1 has 3 classes and the ensemble 4"):
        ModelSpec("ensemble", 4, 40, 3, good)
    twice = [{**good["members"][0], "order": [0, 0, 1]}, *good["members"][1:]]
    with pytest.raises(ConfigError, match="orders hold each of 0 to 2 once"):
        ModelSpec("ensemble", 3, 40, 3, {**good, "members": twice})
