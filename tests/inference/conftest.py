import json
import shutil
from pathlib import Path

import numpy as np
import pytest

SHIPPED = Path(__file__).parents[2] / "saved_models" / "ferplus-cnn"


@pytest.fixture(scope="session")
def shipped():
    """The folder of the shipped model: 48x48 grey, 8 labels."""
    return SHIPPED


@pytest.fixture
def edited_model(tmp_path):
    """A copy of the shipped model with other metadata: edited_model(name="x", temperature=2.0, labels=None)."""

    def edit(name="edited", **changes):
        folder = tmp_path / "models" / name
        shutil.copytree(SHIPPED, folder)
        metadata = json.loads((folder / "metadata.json").read_text())
        metadata.update(name=name, **changes)
        (folder / "metadata.json").write_text(json.dumps(metadata))
        return folder

    return edit


@pytest.fixture(scope="session")
def photograph():
    """uint8 (360, 512, 3): a woman whose face is at about (175..270, 60..175), and her mirror image, half as large, beside."""
    from PIL import Image

    astronaut = pytest.importorskip("skimage.data").astronaut()[:360]
    small = Image.fromarray(astronaut[:300, 100:350][:, ::-1]).resize((125, 150))
    picture = astronaut.copy()
    picture[200:350, 380:505] = np.asarray(small)
    return picture


@pytest.fixture(scope="session")
def detector():
    from fer_keras.detectors import create_detector

    return create_detector("mtcnn")


@pytest.fixture(scope="session")
def recognizer():
    from fer_keras.inference.recognizer import Recognizer

    return Recognizer(SHIPPED)
