import json
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fer_keras.errors import ConfigError, ModelError
from fer_keras.inference.recognizer import Recognizer
from fer_keras.inference.runtimes import TOLERANCES
from fer_keras.models.exported import load_exported, probe_pixels, read_metadata
from fer_keras.runtime import computes_bfloat16

openvino = pytest.mark.skipif(not find_spec("openvino"), reason="needs OpenVINO, which is not installed")


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(3).integers(0, 256, (70, 48, 48, 1), np.uint8)


@openvino
def test_both_runtimes_give_the_same_probabilities_for_any_number_of_faces(shipped, faces):
    fast, sure = Recognizer(shipped, runtime="openvino"), Recognizer(shipped, runtime="tensorflow")
    assert (fast.runtime, sure.runtime) == ("openvino", "tensorflow")
    for count in (0, 1, 5, 70):
        assert fast.predict(faces[:count]).shape == (count, 8)
        assert np.abs(fast.predict(faces[:count]) - sure.predict(faces[:count])).max(initial=0) < 1e-3


@openvino
def test_in_bfloat16_answers_hardly_change(shipped, faces):
    # Every processor that OpenVINO runs on computes in bfloat16, most of them slowly.
    for folder in (shipped, shipped.parent / "ferplus-densenet121"):
        reduced, sure = Recognizer(folder, runtime="openvino-bf16"), Recognizer(folder, runtime="openvino")
        assert (reduced.runtime, sure.runtime) == ("openvino-bf16", "openvino")
        difference = np.abs(reduced.predict(faces) - sure.predict(faces)).max()
        assert 1e-5 < difference < 0.05


@openvino
def test_what_is_recorded_of_a_model_in_bfloat16_is_so(shipped, faces):
    """On faces of the tests' own: the recorded shares are of thousands, these are 70 textures, most of them close to a tie."""
    told = read_metadata(shipped)["bfloat16"]
    assert told["n"] > 3000 and told["same_label"] >= 0.995
    reduced, sure = (Recognizer(shipped, runtime=name).predict(faces).argmax(axis=1) for name in ("openvino-bf16", "openvino"))
    assert (reduced == sure).mean() > 0.95


@openvino
def test_bfloat16_is_chosen_where_the_processor_has_it_and_the_model_has_stood_it(shipped, edited_model, monkeypatch):
    runtimes = "fer_keras.inference.runtimes.computes_bfloat16"
    monkeypatch.setattr(runtimes, lambda: True)
    assert Recognizer(shipped).runtime == "openvino-bf16"
    assert Recognizer(shipped, runtime="openvino").runtime == "openvino"
    for tried in (None, "yes", {"same_label": 0.994}, {"same_label": "0.999"}):
        folder = edited_model(bfloat16=tried)
        assert Recognizer(folder).runtime == "openvino"
        shutil.rmtree(folder)
    monkeypatch.setattr(runtimes, lambda: False)
    assert Recognizer(shipped).runtime == "openvino"


@openvino
@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="reads /proc/cpuinfo of Linux on x86")
def test_the_processor_itself_says_whether_it_has_bfloat16():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if flags & {"avx512_bf16", "amx_bf16"}:
        assert computes_bfloat16()
    elif "avx_ne_convert" not in flags:  # where it is, OpenVINO decides
        assert not computes_bfloat16()


@openvino
def test_where_bfloat16_is_too_coarse_for_a_model_float32_runs(edited_model, shipped, monkeypatch):
    monkeypatch.setattr("fer_keras.inference.runtimes.computes_bfloat16", lambda: True)
    monkeypatch.setitem(TOLERANCES, "openvino-bf16", 1e-7)
    assert Recognizer(shipped).runtime == "openvino"
    with pytest.raises(ModelError, match=r"in bfloat16 differ from TensorFlow's by .*; run it with OpenVINO in float32"):
        Recognizer(shipped, runtime="openvino-bf16")


@openvino
def test_openvino_is_chosen_where_installed_and_loads_no_tensorflow(shipped):
    code = (
        "import sys; from fer_keras.inference.recognizer import Recognizer; "
        f"print(Recognizer({str(shipped)!r}).runtime, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino-bf16" if computes_bfloat16() else "openvino", "False"]


def test_without_openvino_tensorflow_is_chosen(shipped, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert Recognizer(shipped).runtime == "tensorflow"
    for wanted in ("openvino", "openvino-bf16"):
        with pytest.raises(ConfigError, match="pip install openvino"):
            Recognizer(shipped, runtime=wanted)


@openvino
def test_where_openvino_disagrees_tensorflow_runs_with_a_warning(edited_model, shipped, faces):
    recorded = np.array(read_metadata(shipped)["probe"]["probabilities"])
    recorded[2, 0] += 0.1  # more than bfloat16 may differ by, too
    folder = edited_model(probe={"probabilities": recorded.tolist()})
    with pytest.warns(UserWarning, match=r"differ from TensorFlow's by 0\.1, allowed is 0\.001.*TensorFlow runs it instead"):
        model = Recognizer(folder)
    assert model.runtime == "tensorflow"
    assert np.allclose(model.predict(faces), Recognizer(shipped, runtime="openvino").predict(faces), atol=1e-3)
    with pytest.raises(ModelError, match="run it with TensorFlow"):
        Recognizer(folder, runtime="openvino")


@openvino
@pytest.mark.parametrize("probe", [None, "lost", {"probabilities": [[1.0]]}, {"probabilities": "lost"}])
def test_a_model_without_recorded_answers_is_compared_with_tensorflow_itself(edited_model, probe):
    assert Recognizer(edited_model(probe=probe)).runtime.startswith("openvino")


def test_the_shipped_models_record_what_tensorflow_says_of_the_probe_batch(shipped):
    for folder in (shipped, shipped.parent / "ferplus-densenet121"):
        model = load_exported(folder)
        probabilities = model.predict(probe_pixels(model.image_size, model.channels))
        assert np.abs(np.array(model.metadata["probe"]["probabilities"]) - probabilities).max() < 1e-4


@pytest.mark.parametrize(("size", "channels"), [(48, 1), (96, 3), (1, 1)])
def test_the_probe_batch_is_five_different_pictures(size, channels):
    pixels = probe_pixels(size, channels)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (5, size, size, channels))
    assert np.array_equal(pixels, probe_pixels(size, channels))
    if size > 1:
        assert len({each.tobytes() for each in pixels}) == 5


@pytest.mark.parametrize(
    "runtime", ["auto", "tensorflow", *(pytest.param(name, marks=openvino) for name in ("openvino", "openvino-bf16"))]
)
def test_a_damaged_savedmodel_is_told(shipped, tmp_path, runtime):
    shutil.copytree(shipped, tmp_path / "m")
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"lost")
    with pytest.raises(ModelError, match=f"the SavedModel in {tmp_path / 'm'}"):
        Recognizer(tmp_path / "m", runtime=runtime)


@pytest.mark.parametrize(
    "runtime", ["auto", "tensorflow", *(pytest.param(name, marks=openvino) for name in ("openvino", "openvino-bf16"))]
)
def test_metadata_of_another_model_is_told(edited_model, runtime):
    spec = json.loads(json.dumps({**read_metadata(edited_model())["spec"], "classes": 2}))
    folder = edited_model("other", labels=["yes", "no"], spec=spec)
    with pytest.raises(ModelError, match="8"):
        Recognizer(folder, runtime=runtime)


def test_an_unknown_runtime_and_a_missing_model_are_told(shipped, tmp_path):
    with pytest.raises(ConfigError, match="unknown runtime 'cuda'; choose from auto, tensorflow, openvino"):
        Recognizer(shipped, runtime="cuda")
    with pytest.raises(ModelError, match=r"there is no model .*nothing; expected a model's folder"):
        Recognizer(tmp_path / "nothing")
