"""What the tests of the server share."""

import json
import shutil

import pytest
from live_server import MODEL, TWIN_LABELS, serving


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """The shipped model under another name and with other words for its labels, so that a switch can be seen."""
    folder = tmp_path_factory.mktemp("models") / "twin"
    shutil.copytree(MODEL, folder)
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata |= {"name": "twin", "labels": TWIN_LABELS}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="session")
def server(twin):
    """One server that most tests share: the demo, two models."""
    with serving(models=(str(MODEL), str(twin))) as running:
        running.ready()
        yield running


@pytest.fixture(scope="session")
def astronaut():
    """A photograph with one real face, uint8 (512, 512, 3)."""
    from skimage import data

    return data.astronaut()
