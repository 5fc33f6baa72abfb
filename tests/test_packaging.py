"""What an install without the clone brings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that would be copied to site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_all_that_is_committed_of_the_packages_is_installed_and_no_model_of_ones_own(installed):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout, so nothing tells what is shipped")
    committed = {Path(name) for name in listed.stdout.split("\0") if name}
    expected = {path for path in committed if path.parts[0] in ("fer_keras", "training", "serving")}
    expected |= {"fer_keras" / path for path in committed if path.parts[0] == "saved_models" and path.name != "README.md"}
    expected |= {"fer_keras" / path for path in committed if path.match("saved_models/*/README.md")}
    there = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert expected <= there
    models = Path("fer_keras/saved_models")
    assert {path for path in there - expected if path.is_relative_to(models)} == set()


def test_shipped_models_are_found_from_an_empty_folder(installed, tmp_path):
    code = "from serving.model_paths import *; print(find_default_model(), *find_models(['ferplus-densenet121']).values())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    models = installed / "fer_keras" / "saved_models"
    assert said.stdout.split() == [str(models / "ferplus-cnn"), str(models / "ferplus-densenet121")], said.stderr[-2000:]
