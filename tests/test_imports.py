"""The rooms import each other in one direction, and importing is cheap."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: The ground that everything stands on; these import nothing else of the project.
GROUND = ("fer_keras.cli", "fer_keras.errors", "fer_keras.files", "fer_keras.labels", "fer_keras.runtime", "fer_keras.types")
#: What each room may import of the project besides the ground. The first that matches counts.
ALLOWED = {
    **{name: () for name in GROUND},
    "fer_keras.detectors": ("fer_keras.detectors",),
    "fer_keras.data": ("fer_keras.detectors", "fer_keras.data"),
    "fer_keras.models": ("fer_keras.models",),
    "fer_keras.evaluation": ("fer_keras.evaluation",),
    "fer_keras.inference": ("fer_keras.detectors", "fer_keras.data", "fer_keras.models", "fer_keras.inference"),
    "fer_keras": (),
    "training": ("fer_keras", "training"),
    "serving": ("fer_keras", "serving"),
}
HEAVY = {
    "tensorflow",
    "keras",
    "pandas",
    "matplotlib",
    "sklearn",
    "scipy",
    "cv2",
    "PIL",
    "mtcnn",
    "yaml",
    "tqdm",
    "flask",
    "fairlearn",
    "openvino",
    "tkinter",
}

#: Routes are made by decorators, which need Flask at once; these modules are themselves imported by `create_app` alone.
ROUTES = {"serving.api": {"flask"}, "serving.pages": {"flask"}}


def modules():
    for folder in ("fer_keras", "training", "serving"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, path


def imported(path):
    """(module name, at the top level of the file) of each import, those for type checkers left out."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            # `from fer_keras import detectors` imports fer_keras.detectors
            names = [f"{node.module}.{alias.name}" for alias in node.names] if "." not in node.module else [node.module]
            for name in names:
                yield name, id(node) in top


def within(name, room):
    return name == room or name.startswith(room + ".")


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_module_imports_only_rooms_below_it(name, path):
    room = next(room for room in ALLOWED if within(name, room))
    ours = [found for found, _ in imported(path) if found.split(".")[0] in ("fer_keras", "training", "serving")]
    allowed = (*GROUND, *ALLOWED[room])
    wrong = [found for found in ours if found != "fer_keras" and not any(within(found, one) for one in allowed)]
    assert not wrong, f"{name} is in {room} and must not import {wrong}"


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_module_imports_heavy_libraries_where_it_uses_them(name, path):
    heavy = [found for found, top in imported(path) if top and found.split(".")[0] in HEAVY - ROUTES.get(name, set())]
    assert not heavy, f"{name} imports {heavy} when it is imported; do it inside the functions that need it"


def seconds(*arguments):
    """Best of three, since other work may take the processor for a moment."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_importing_the_package_takes_under_0_3_seconds():
    assert seconds("-c", "import fer_keras") < 0.3


@pytest.mark.parametrize(
    "command",
    sorted(
        f"{room}.{path.stem}"
        for room in ("training", "serving")
        for path in (ROOT / room).glob("*.py")
        if "def main(" in path.read_text()
    ),
)
def test_help_answers_within_a_second(command):
    assert seconds("-m", command, "--help") < 1.0
