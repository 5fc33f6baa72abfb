"""Which exported models a serving command runs: those named, else the shipped default."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fer_keras.errors import ConfigError, ModelError
from fer_keras.models.exported import read_metadata
from fer_keras.models.finding import find_model

#: The model that is used where none is named: the one trained on real faces.
DEFAULT_MODEL = "ferplus-cnn"


def find_default_model() -> Path:
    """Folder of the shipped default. Raises ModelError that says how to train one where it is missing."""
    try:
        return find_model(Path("saved_models") / DEFAULT_MODEL)
    except ModelError as error:
        raise ModelError(
            f"{error}; this default comes with the project: install that anew, name another model with --model, or make one: "
            "python -m training.train --arch cnn --data DIR --export my-model"
        ) from None


def find_models(names: Sequence[str | os.PathLike]) -> dict[str, Path]:
    """Folders of the models by the names they are shown under, in the given order; the default alone where none is named.

    Their metadata is checked. Raises ModelError for one that is not there or is no model, and ConfigError where two have one
    name.
    """
    found: dict[str, Path] = {}
    for path in [find_model(name) for name in names] or [find_default_model()]:
        read_metadata(path)
        if path.resolve().name in found:
            raise ConfigError(f"two models are named {path.resolve().name!r}; rename a folder, or leave one out")
        found[path.resolve().name] = path
    return found
