"""Where exported models are found: by a path, or by a name in saved_models/ or among those that the project ships."""

from __future__ import annotations

import os
from pathlib import Path

from fer_keras.errors import ModelError

_INSTALLED = Path(__file__).resolve().parents[1] / "saved_models"
#: The models that come with the project: those that setup.py put into the package where it was installed without its clone, else
#: those of the clone. Where exports go (--saved-models) may be another folder.
SHIPPED_MODELS = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "saved_models"


def model_folders(saved_models: str | os.PathLike) -> tuple[Path, ...]:
    """Where exported models are looked for by name: the folder of the settings, then what is shipped."""
    own = Path(saved_models)
    return (own,) if own.resolve() == SHIPPED_MODELS else (own, SHIPPED_MODELS)


def find_model(
    name: str | os.PathLike, saved_models: str | os.PathLike = "saved_models", *, expected: str = "a model's folder"
) -> Path:
    """The path that is meant by what a user calls a model: everything that takes one asks here. What lies there is not looked at.

    name: a path that is there wins; else it is a name in `saved_models`, else that of a shipped model, which
        "saved_models/NAME" is too, as the documents have it, where the command runs in another folder.
    expected: what else than a name would do, for the message.
    Raises ModelError, which tells the names that there are, where there is none.
    """
    path, folders = Path(name), model_folders(saved_models)
    if path.exists():
        return path
    is_name, as_in_the_documents = path.name == os.fspath(name), path.parent == Path("saved_models")
    for folder in folders if is_name else (SHIPPED_MODELS,) if as_in_the_documents else ():
        if (folder / path.name).is_dir():
            return folder / path.name
    there = _names(*folders) or "none is there"
    beside = "" if is_name or path.parent in folders else _names(path.parent)
    raise ModelError(
        f"there is no model {path}; expected {expected}, or the name of one in {folders[0]} or shipped ({there})"
        + (f"; {path.parent} has {beside}" if beside else "")
    )


def _names(*folders: Path) -> str:
    """The exported models in some folders. Hidden ones are not whole yet."""
    names = {entry.parent.name for folder in folders for entry in folder.glob("*/metadata.json")}
    return ", ".join(sorted(name for name in names if not name.startswith(".")))
