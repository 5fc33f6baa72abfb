"""Which exported models a serving command runs: those named, else the shipped default."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fer_keras.errors import ConfigError, ModelError
from fer_keras.models.exported import read_metadata
from fer_keras.models.transfer import SHIPPED_MODELS

#: The model that is used where none is named: the one trained on real faces.
DEFAULT_MODEL = "ferplus-cnn"
#: Where models are looked for by name: where the command runs, then what is shipped.
SAVED_MODELS = (Path("saved_models"), SHIPPED_MODELS)


def find_default_model() -> Path:
    """Folder of the shipped default. Raises ModelError that says how to train one where it is missing."""
    for folder in SAVED_MODELS:
        if (folder / DEFAULT_MODEL / "metadata.json").is_file():
            return folder / DEFAULT_MODEL
    others = ", ".join(_names()) or "nothing"
    raise ModelError(
        f"the default model saved_models/{DEFAULT_MODEL} is not there (there is {others}), though it comes with the project: "
        "install that anew, name another model with --model, or make one: "
        "python -m training.train --arch cnn --data DIR --export my-model"
    )


def find_model(name: str | os.PathLike) -> Path:
    """Folder of an exported model, given as a path or as a name in saved_models. Its metadata is checked. Raises ModelError."""
    path = Path(name)
    if not path.exists() and path.name == os.fspath(name):
        path = next((folder / path for folder in SAVED_MODELS if (folder / path).is_dir()), path)
    if not path.exists():
        raise ModelError(
            f"there is no model {os.fspath(name)!r}; expected a folder, or a name in saved_models "
            f"({', '.join(_names()) or 'empty'})"
        )
    read_metadata(path)
    return path


def find_models(names: Sequence[str | os.PathLike]) -> dict[str, Path]:
    """Folders of the models by the names they are shown under, in the given order; the default alone where none is named.

    Raises ModelError for one that is not there, and ConfigError where two have one name.
    """
    found: dict[str, Path] = {}
    for path in [find_model(name) for name in names] or [find_default_model()]:
        if path.resolve().name in found:
            raise ConfigError(f"two models are named {path.resolve().name!r}; rename a folder, or leave one out")
        found[path.resolve().name] = path
    return found


def _names() -> list[str]:
    return sorted({entry.parent.name for folder in SAVED_MODELS for entry in folder.glob("*/metadata.json")})
