"""The script that trains the shipped models anew, with tiny configs in place of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from bands import banded_faces, write_faces

ROOT = Path(__file__).parents[2]
TINY = {"arch": "cnn", "layers": [8], "convs_per_stage": 1, "batch_size": 32, "lr": 0.02, "augment": False}


@pytest.fixture
def project(tmp_path):
    """A folder with the script, two small trainings under names that it knows, and their data."""
    configs = tmp_path / "training" / "configs"
    configs.mkdir(parents=True)
    shutil.copy(ROOT / "training" / "configs" / "reproduce.sh", configs)
    faces, names = banded_faces(224)
    write_faces(tmp_path / "data" / "prepared" / "ferplus", faces, names, ["train"] * 192 + ["validation"] * 32)
    base = {"data": "data/prepared/ferplus", **TINY}
    for name, epochs, weights in (("start", 10, "none"), ("longer", 60, "ferplus-cnn-start")):
        settings = {**base, "epochs": epochs, "weights": weights, "best_after": 0}
        (configs / f"ferplus-cnn-{name}.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def reproduce(project, *words):
    """The script, started in a process group of its own and with Ctrl-C at work, as by a terminal."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", str(project / "training" / "configs" / "reproduce.sh"), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # what runs in the background may ignore it
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes, **heed)


def test_ctrl_c_ends_the_script_and_the_next_call_goes_on_with_what_was_stopped(project):
    history = project / "runs/reproduced/ferplus-cnn-longer/history.csv"
    first = reproduce(project, "ferplus-teacher")
    end = time.monotonic() + 120
    while not (history.is_file() and len(history.read_text().splitlines()) > 2) and time.monotonic() < end:
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130, err
    assert "Stopped by Ctrl-C" in out + err and "== ferplus-teacher" not in out
    told = json.loads((project / "reproduced/ferplus-cnn-longer/metadata.json").read_text())["trained_on"]
    assert told["epochs"] < 60 and "Ctrl-C" in told["stopped"]

    (project / "runs/reproduced/ferplus-teacher").mkdir()  # as a kill leaves it
    second = reproduce(project, "ferplus-teacher")
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert "reproduced/ferplus-cnn-start is there" in out
    told = json.loads((project / "reproduced/ferplus-cnn-longer/metadata.json").read_text())["trained_on"]
    assert told["epochs"] == 60 and "stopped" not in told
    teacher = json.loads((project / "reproduced/ferplus-teacher/metadata.json").read_text())
    assert teacher["spec"]["options"]["mirror"] and len(teacher["members"]) == 2
    assert f"ferplus-teacher: accuracy {teacher['figures'][0]['accuracy']:.3f} (" in out


def test_steps_come_after_all_that_they_build_on_and_no_others():
    script = ROOT / "training" / "configs" / "reproduce.sh"

    def steps(*names):
        return subprocess.run(["bash", script, "--steps", *names], capture_output=True, text=True, check=True).stdout.split()

    whole = steps()
    assert {"ferplus-cnn", "ferplus-ensemble", "fer2013-cnn", "fer2013-ensemble", "ferplus-densenet121"} <= set(whole)
    assert len(whole) == len(set(whole))
    for number, name in enumerate(whole):
        config = script.parent / f"{name}.yaml"
        if config.is_file():
            settings = yaml.safe_load(config.read_text())
            needed = {settings.get("weights", "none"), settings.get("teacher", "none")} - {"none"}
            assert needed <= set(whole[:number]), name
    built = {"ferplus-cnn-mean": {"ferplus-cnn-large", "ferplus-cnn"}, "fer2013-ensemble": {"fer2013-cnn-other"}}
    for name, needed in built.items():
        assert needed <= set(whole[: whole.index(name)])
    configs = {path.stem for path in script.parent.glob("*.yaml")} - {"ferplus-ablation"}
    assert configs <= set(whole)  # none is left over
    alone = steps("fer2013-cnn-taught")
    assert "fer2013-teacher" in alone and "drawn-densenet121" not in alone and alone[-1] == "fer2013-cnn-taught"


def test_a_mean_of_weights_is_made_of_the_runs_and_kept(project):
    from fer_keras.models.exported import read_weights

    for name, seed in (("large", 1), ("", 2)):
        settings = {"data": "data/prepared/ferplus", **TINY, "epochs": 2, "weights": "none", "best_after": 0, "seed": seed}
        file = "-".join(filter(None, ("ferplus-cnn", name)))
        (project / "training" / "configs" / f"{file}.yaml").write_text(yaml.safe_dump(settings))
    for said in ("Exported: reproduced/ferplus-cnn-mean", "reproduced/ferplus-cnn-mean is there"):
        process = reproduce(project, "ferplus-cnn-mean")
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0 and said in out, err
    large, second, mean = (read_weights(project / "reproduced" / f"ferplus-cnn{end}") for end in ("-large", "", "-mean"))
    for one, other, both in zip(large, second, mean, strict=True):
        np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)


def test_unknown_steps_and_missing_data_are_told_before_anything_is_trained(project):
    unknown = reproduce(project, "nobody")
    assert "nobody is no step; take some of ferplus-cnn" in unknown.communicate(timeout=60)[1] and unknown.returncode == 2
    shutil.rmtree(project / "data")
    homeless = reproduce(project, "ferplus-teacher")
    _, err = homeless.communicate(timeout=60)
    assert homeless.returncode == 2 and "data/prepared/ferplus is not there, which ferplus-cnn-start needs" in err
    assert not (project / "runs").exists()
