import gc
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

#: Files that take half a minute and more, the longest first. Two processes share the files; a long one that is begun last
#: keeps one of them busy for minutes while the other has nothing left to do.
LONGEST_FIRST = (
    "test_two_phases.py",
    "test_contract.py",
    "test_loop.py",
    "test_kfold.py",
    "test_densenet.py",
    "test_balancing.py",
    "test_features.py",
    "test_mitigate.py",
    "test_several_devices.py",
    "test_bias.py",
    "test_train.py",
    "test_corruptions_command.py",
    "test_ensemble_command.py",
    "test_page.py",
    "test_patience.py",
    "test_evaluate.py",
)


def pytest_collection_modifyitems(items):
    """The long files first; see LONGEST_FIRST."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_configure():
    """Collect seldom: TensorFlow, Keras and their graphs are a million objects that each full collection looks through.

    Tracing fills Python's default thresholds many times a second; a fifth of the time of test_mitigate.py went into that.
    """
    gc.set_threshold(20_000, 10, 10)


def pytest_runtest_setup():
    """Leave the modules of Keras out of all later collections, once a test has imported it."""
    if "keras" in sys.modules and gc.get_freeze_count() == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def shared_dir():
    """The folder of real faces beside the checkout, which is no part of the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the real data in {SHARED}, which is absent")
    return SHARED
