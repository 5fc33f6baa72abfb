import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_keras.errors import ConfigError, ModelError
from fer_keras.models.exported import (
    METADATA_KEYS,
    export_model,
    load_exported,
    load_keras_model,
    model_card,
    read_metadata,
    read_weights,
    rounded_to_half,
)
from fer_keras.models.registry import ModelSpec

ROOT = Path(__file__).parents[2]
SPEC = ModelSpec("cnn", 3, 16, 1, {"layers": [4, 6], "convs_per_stage": 1})
DETAILS = {
    "labels": ("anger", "happiness", "neutral"),
    "trained_on": {"name": "ferplus", "n_train": 100},
    "crop_margin": 0.2,
    "temperature": 1.5,
    "seed": 7,
    "figures": [
        {
            "dataset": "ferplus",
            "split": "test",
            "protocol": "majority",
            "n": 3000,
            "accuracy": 0.8412,
            "accuracy_ci95": [0.828, 0.854],
            "macro_f1": 0.65,
        }
    ],
}


@pytest.fixture(scope="module")
def model():
    return SPEC.build(seed=1)


@pytest.fixture(scope="module")
def original(model, tmp_path_factory):
    return export_model(model, SPEC, tmp_path_factory.mktemp("saved_models") / "small", DETAILS)


@pytest.fixture(scope="module")
def exported(original):
    return load_exported(original)


@pytest.fixture
def damaged(original, tmp_path):
    """A copy to damage."""
    return shutil.copytree(original, tmp_path / "small")


def edit(folder, **changes):
    file = folder / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata.update(changes)
    file.write_text(json.dumps({key: value for key, value in metadata.items() if value is not ...}))


def test_the_folder_has_the_model_its_metadata_and_its_card(original):
    assert {"saved_model.pb", "variables", "metadata.json", "README.md"} <= {entry.name for entry in original.iterdir()}
    assert not [entry for entry in original.parent.iterdir() if entry.name.endswith(".part")]


def test_metadata_tells_all_that_the_contract_names(original):
    metadata = read_metadata(original)
    assert set(METADATA_KEYS) <= set(metadata)
    assert metadata["name"] == "small"
    assert metadata["labels"] == ["anger", "happiness", "neutral"]
    assert metadata["input"] == {"height": 16, "width": 16, "channels": 1, "dtype": "uint8", "range": [0, 255]}
    assert set(metadata["versions"]) == {"fer_keras", "tensorflow", "keras", "python"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", metadata["created"])
    assert metadata["seed"] == 7


def test_loading_gives_what_was_exported(exported):
    assert exported.name == "small"
    assert exported.labels == ("anger", "happiness", "neutral")
    assert (exported.image_size, exported.channels) == (16, 1)
    assert (exported.crop_margin, exported.temperature) == (0.2, 1.5)


def test_any_plain_tensorflow_can_call_both_signatures(original, model, pixels):
    import tensorflow as tf

    faces = pixels(2, 16, 1)
    expected = np.asarray(model(faces.astype(np.float32)))
    signatures = tf.saved_model.load(str(original)).signatures
    by_uint8 = signatures["serving_default"](pixels=tf.constant(faces))["probabilities"]
    by_float = signatures["serve_float"](pixels=tf.constant(faces, tf.float32))["probabilities"]
    assert by_uint8.dtype == tf.float32
    np.testing.assert_allclose(by_uint8, expected, atol=1e-6)
    np.testing.assert_allclose(by_float, expected, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_prediction_does_not_depend_on_the_batch_size(exported, model, pixels, count):
    faces = pixels(count, 16, 1)
    result = exported.predict(faces, batch_size=4)
    assert result.shape == (count, 3)
    assert result.dtype == np.float32
    if count:
        np.testing.assert_allclose(result, np.asarray(model(faces.astype(np.float32))), atol=1e-6)


def test_every_number_type_means_the_same_pixels(exported, pixels):
    faces = pixels(2, 16, 1)
    expected = exported.predict(faces)
    for dtype in (np.int64, np.float16, np.float32, np.float64):
        np.testing.assert_allclose(exported.predict(faces.astype(dtype)), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 16, 1), (2, 48, 48, 1), (2, 16, 16, 3), (2, 16, 16)])
def test_pixels_of_another_shape_are_refused(exported, shape):
    expected = f"model small takes pixels of shape (n, 16, 16, 1), got {shape}; resize"
    with pytest.raises(ModelError, match=re.escape(expected)):
        exported.predict(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, r"takes pixels 0\.\.255, got -1\.\.-1"), (256.0, "got 256"), (np.nan, "got nan"), (True, "got bool")],
)
def test_values_that_are_no_pixels_are_refused(exported, value, message):
    with pytest.raises(ModelError, match=message):
        exported.predict(np.full((1, 16, 16, 1), value))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pixels_divided_by_255_are_refused_but_black_ones_pass(exported, pixels, dtype):
    faces = pixels(3, 16, 1)
    expected = r"model small takes pixels 0\.\.255, got 0\.\.(1|0\.99\d+), which look like 0\.\.1; do not divide them by 255"
    for divided in (faces / 255, faces // 255, faces / 256):
        with pytest.raises(ModelError, match=expected):
            exported.predict(divided.astype(dtype))
    black = exported.predict(np.zeros_like(faces))
    np.testing.assert_array_equal(exported.predict(np.zeros(faces.shape, dtype)), black)
    np.testing.assert_allclose(exported.predict(np.full(faces.shape, 1e-4, dtype)), black, atol=1e-4)
    assert exported.predict(faces // 255).shape == (3, 3)  # uint8 is what it is, however dark
    assert exported.predict(np.zeros((0, 16, 16, 1), dtype)).shape == (0, 3)
    mixed = faces.astype(dtype)
    mixed[0] /= 255  # one dark picture among others is no other scale
    assert exported.predict(mixed).shape == (3, 3)


@pytest.mark.parametrize("batch_size", [-1, 0, 1.5, None, "8", np.nan])
def test_a_batch_size_that_is_none_is_refused(exported, pixels, batch_size):
    with pytest.raises(ConfigError, match=re.escape(f"batch_size is a whole number of 1 or more, got {batch_size!r}")):
        exported.predict(pixels(2, 16, 1), batch_size=batch_size)
    assert exported.predict(pixels(2, 16, 1), batch_size=np.int64(1)).shape == (2, 3)


def test_a_mixed_precision_model_is_exported_in_float32(model, tmp_path, pixels):
    mixed = SPEC.build(seed=5, precision="mixed_bfloat16")
    mixed.set_weights(model.get_weights())
    path = export_model(mixed, SPEC, tmp_path / "mixed", DETAILS)
    faces = pixels(4, 16, 1)
    np.testing.assert_allclose(load_exported(path).predict(faces), np.asarray(model(faces.astype(np.float32))), atol=1e-6)


def test_kernels_are_kept_in_16_bits_on_request_and_everything_computes_with_those(model, tmp_path, pixels):
    import tensorflow as tf

    whole = export_model(model, SPEC, tmp_path / "whole", DETAILS)
    path = export_model(model, SPEC, tmp_path / "half", DETAILS, half=True)
    expected = read_weights(path)
    for before, after in zip(model.get_weights(), expected, strict=True):
        assert after.dtype == np.float32
        if before.ndim > 1:
            assert 0 < np.abs(after - before).max() <= np.abs(before).max() / 32767
        else:
            np.testing.assert_array_equal(after, before)
    again = load_keras_model(path)
    for read in (again.get_weights(), read_weights(export_model(again, SPEC, tmp_path / "again", DETAILS, half=True))):
        for told, value in zip(read, expected, strict=True):
            np.testing.assert_array_equal(told, value)
    kept = tf.train.load_checkpoint(str(path / "variables/variables")).get_variable_to_dtype_map()
    assert {dtype for name, dtype in kept.items() if name.startswith("arrays/")} == {tf.int16}
    data = "variables/variables.data-00000-of-00001"
    kernels = sum(value.size for value in expected if value.ndim > 1)
    scales = 4 * sum(value.ndim > 1 for value in expected)
    assert (whole / data).stat().st_size - (path / data).stat().st_size == pytest.approx(2 * kernels - scales, abs=200)

    rounded = SPEC.build()
    rounded.set_weights(expected)
    faces = pixels(4, 16, 1)
    said = np.asarray(rounded(faces.astype(np.float32)))
    np.testing.assert_allclose(load_exported(path).predict(faces), said, atol=1e-6)
    np.testing.assert_allclose(load_exported(path).predict(faces.astype(np.float32)), said, atol=1e-6)
    assert read_metadata(path)["kernels"] == "int16" and "16 bits" in (path / "README.md").read_text()
    assert "kernels" not in read_metadata(whole) and "16 bits" not in (whole / "README.md").read_text()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_16_bits_cannot_hold_are_refused(tmp_path, value):
    model = SPEC.build(seed=3)
    weights = model.get_weights()
    weights[0][0, 0, 0, 0] = value
    model.set_weights(weights)
    with pytest.raises(ModelError, match="no finite numbers"):
        export_model(model, SPEC, tmp_path / "m", DETAILS, half=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kernel", [[[0.0, 0.0]], [[1e6, -3.0]], [[1e-30, -7e-31]], [[32767.0, -32767.0]], [[-65534.0, 1.0]]])
def test_kernels_of_any_size_are_rounded_to_one_of_65535_steps(kernel):
    [rounded] = rounded_to_half([np.array(kernel, np.float32)])
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, kernel, rtol=0, atol=np.abs(kernel).max() / 32767)
    np.testing.assert_array_equal(rounded_to_half([rounded])[0], rounded)


def test_weights_come_back_in_the_order_of_the_keras_model(original, model):
    weights = read_weights(original)
    assert len(weights) == len(model.weights)
    for expected, received in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(received, expected)


def test_an_exported_model_becomes_a_keras_model_that_trains_on(original, model, pixels):
    again = load_keras_model(original)
    faces = pixels(4, 16, 1).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(again(faces)), np.asarray(model(faces)))
    again.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    again.fit(faces, np.array([0, 1, 2, 0]), verbose=0)
    assert not np.array_equal(again.get_weights()[0], model.get_weights()[0])


# What is refused when exporting


def test_an_existing_model_is_replaced_only_on_purpose(model, tmp_path):
    export_model(model, SPEC, tmp_path / "m", DETAILS)
    with pytest.raises(ModelError, match="m exists already; choose another name"):
        export_model(model, SPEC, tmp_path / "m", DETAILS)
    export_model(model, SPEC, tmp_path / "m", {**DETAILS, "seed": 8}, overwrite=True)
    assert read_metadata(tmp_path / "m")["seed"] == 8
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="mine is not an exported model, so it is not overwritten"):
        export_model(model, SPEC, tmp_path / "mine", DETAILS, overwrite=True)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_labels_must_be_as_many_as_outputs(model, tmp_path):
    with pytest.raises(ModelError, match=r"has 2 labels \(a, b\) and a spec of 3 classes"):
        export_model(model, SPEC, tmp_path / "m", {**DETAILS, "labels": ["a", "b"]})
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_of_the_spec_is_refused(tmp_path):
    other = ModelSpec("cnn", 3, 16, 1, {"layers": [4, 8], "convs_per_stage": 1}).build()
    with pytest.raises(ModelError, match="weights of model cnn do not fit its spec: .* number 5 is"):
        export_model(other, SPEC, tmp_path / "m", DETAILS)
    assert not list(tmp_path.iterdir())


def test_a_model_with_nan_weights_is_refused_and_leaves_what_was_there(model, tmp_path):
    export_model(model, SPEC, tmp_path / "m", DETAILS)
    broken = SPEC.build()
    broken.set_weights([value * np.nan for value in broken.get_weights()])
    with pytest.raises(ModelError, match="probabilities differ from the Keras model's by nan"):
        export_model(broken, SPEC, tmp_path / "m", DETAILS, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]
    load_exported(tmp_path / "m")


# What is refused when loading


def test_a_folder_that_is_no_exported_model_is_refused(tmp_path, damaged):
    with pytest.raises(ModelError, match="there is no model .*nothing; expected a model's folder, or the name of one"):
        load_exported(tmp_path / "nothing")
    with pytest.raises(ModelError, match="is not an exported model: it lacks metadata.json"):
        load_exported(tmp_path)
    (damaged / "saved_model.pb").unlink()
    with pytest.raises(ModelError, match="it lacks saved_model.pb"):
        load_exported(damaged)


@pytest.mark.parametrize("key", METADATA_KEYS)
def test_a_missing_metadata_entry_is_named(damaged, key):
    edit(damaged, **{key: ...})
    with pytest.raises(ModelError, match=f"metadata.json lacks {key}; export the model again"):
        load_exported(damaged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "has format_version 99, this fer_keras reads up to 1; update fer_keras"),
        ({"labels": ["a", "b"]}, r"has 2 labels \(a, b\) and a spec of 3 classes"),
        ({"labels": ["a", "a", "b"]}, "labels as a list of different names"),
        ({"labels": "abc"}, "labels as a list of different names"),
        ({"temperature": 0}, "has temperature 0.0, expected more than 0"),
        ({"temperature": "warm"}, "wrong input, temperature or crop_margin"),
        ({"crop_margin": -1}, "has crop_margin -1.0"),
        ({"input": {"height": 48, "width": 48, "channels": 1}}, "says that pictures are .*48.* its spec says 16 px"),
        ({"spec": {"name": "cnn"}}, "has a spec that this fer_keras does not know"),
    ],
)
def test_metadata_that_does_not_fit_is_told(damaged, changes, message):
    edit(damaged, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load_exported(damaged)
    assert str(damaged) in str(caught.value)


def test_metadata_that_is_no_json_is_told(damaged):
    (damaged / "metadata.json").write_text("{")
    with pytest.raises(ModelError, match="can't be read as JSON"):
        load_exported(damaged)


def test_metadata_of_another_model_is_told(damaged):
    spec = {**SPEC.to_dict(), "classes": 4}
    edit(damaged, spec=spec, labels=["a", "b", "c", "d"])
    with pytest.raises(ModelError, match=r"has 4 labels \(a, b, c, d\) and the SavedModel gives 3 probabilities"):
        load_exported(damaged)
    edit(
        damaged,
        spec={**SPEC.to_dict(), "image_size": 32},
        labels=["a", "b", "c"],
        input={**dict(height=32, width=32, channels=1)},
    )
    with pytest.raises(ModelError, match=r"says that pictures are \(32, 32, 1\), the SavedModel takes \(16, 16, 1\)"):
        load_exported(damaged)


def test_a_damaged_savedmodel_is_told_in_one_line(damaged):
    (damaged / "saved_model.pb").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="the SavedModel in .* can't be loaded") as caught:
        load_exported(damaged)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_told_in_one_line(damaged):
    shutil.rmtree(damaged / "variables")
    for load in (load_exported, read_weights):
        with pytest.raises(ModelError, match="can't be (loaded|read)") as caught:
            load(damaged)
        assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_the_spec_are_told(damaged):
    spec = ModelSpec("cnn", 3, 16, 1, {"layers": [4, 8], "convs_per_stage": 1})
    edit(damaged, spec=spec.to_dict())
    with pytest.raises(ModelError, match="weights of .*small do not fit its spec"):
        load_keras_model(damaged)


# The model card


def test_the_model_card_tells_what_people_need(original):
    card = (original / "README.md").read_text()
    assert card == model_card(read_metadata(original))
    for expected in (
        "# small",
        "anger, happiness, neutral",
        'load_exported("small")',
        "- n train: 100",
        "| ferplus | test | majority | 3000 | 0.8412 | 0.8280 to 0.8540 | 0.6500 |",
        "Article 5(1)(f)",
        "medical or safety reasons",
        "20% of its size",
        "not included",
        "rare classes rest on few pictures",  # it knows none of those that are rare everywhere
        "`majority` counts the faces whose first expression has more than half of the votes",
        "Recognizer(path).predict(faces)",
    ):
        assert expected in card, expected
    assert "the best epoch was chosen" not in card  # of test faces


def test_the_model_card_tells_of_figures_by_which_a_model_was_chosen_and_of_its_rare_classes(original):
    known = read_metadata(original)
    card = model_card(
        {**known, "labels": ["fear", "happy", "disgust"], "figures": [{**known["figures"][0], "split": "validation"}]}
    )
    assert "`validation` are the faces by which the best epoch was chosen, so these figures flatter" in card
    assert "rare classes (disgust, fear) rest on few pictures" in card


def test_the_model_card_marks_figures_on_faces_that_the_model_learnt(original):
    known = read_metadata(original)
    card = model_card({**known, "figures": [{**known["figures"][0], "n_learnt": 31}]})
    assert "| majority | 3000 (31 learnt) | 0.8412 |" in card
    assert "`learnt` are faces that the model, or one that it builds on, was trained on, so these figures flatter it" in card
    assert "learnt`" not in model_card(known)


def test_the_model_card_marks_persons_who_are_known_and_has_the_interval_over_persons(original):
    known = read_metadata(original)
    [figure] = known["figures"]
    told = {"n_learnt": 31, "n_persons_learnt": 12, "accuracy_ci95_identities": [0.801, 0.877]}
    card = model_card({**known, "figures": [{**figure, **told}]})
    assert "| majority | 3000 (31 learnt, 12 persons known) | 0.8412 | 0.8010 to 0.8770 |" in card
    assert "`persons known` are those of whom it was trained on other faces" in card
    assert "the 95% interval draws whole persons" in card
    assert "persons" not in model_card(known).partition("## Limits")[0]


def test_the_model_card_of_an_unmeasured_model_says_so(original):
    card = model_card({**read_metadata(original), "figures": [], "trained_on": ""})
    assert "None were measured." in card
    assert "Not recorded." in card


def test_the_revision_is_that_of_this_project_and_not_of_one_around_it(tmp_path):
    """Installed in an ignored environment of another project's repository."""
    site = tmp_path / "project" / ".venv"
    shutil.copytree(ROOT / "fer_keras", site / "fer_keras")
    (tmp_path / "project" / ".gitignore").write_text(".venv\n")
    git = ["git", "-C", str(tmp_path / "project"), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    code = "from fer_keras.models import exported; print(exported.__file__, exported.git_revision())"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.split() == [str(site / "fer_keras" / "models" / "exported.py"), "None"], done.stderr
