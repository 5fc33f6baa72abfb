"""Several devices in one machine. Two logical CPU devices stand for two GPUs: the same strategy, on hardware that is here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
import tensorflow as tf
from fer_keras.data.dataset import FaceDataset
from training import loop
from training.config import TrainConfig
from training.train import start_run

folder, devices = sys.argv[1], int(sys.argv[2])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
if devices > 1:
    mirrored = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(devices)])
    loop.choose_strategy = lambda: mirrored
dataset = FaceDataset.load(f"{folder}/drawn")
losses = []
for name in ("first", "second")[:devices]:  # k-fold trains one after the other in a process
    config = TrainConfig(
        data=str(dataset.path), arch="cnn", layers=[6, 8], batch_norm=False, dropout=0.0, augment=False, epochs=2,
        batch_size=10, tensorboard=False, out=f"{folder}/{name}-{devices}", saved_models=folder, export=f"{name}-{devices}",
    ).resolved()
    run = start_run(config, dataset)
    loop.fit_one(config, dataset.subset(run.rows("train")[:60]), dataset.subset(run.rows("validation")), run)
    model = run.load_model("best")
    losses.append([float(line.split(",")[2]) for line in (run.path / "history.csv").read_text().splitlines()[1:]])
print(json.dumps(losses))
"""


def losses(folder, devices):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(devices)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_two_devices_learn_what_one_learns(tmp_path):
    """Each batch of 10 is halved among the two, and the mean of their gradients is that of the batch."""
    from fer_keras.data.prepare import PrepareSettings, prepare

    prepare(PrepareSettings(source="synthetic", count=100, size=32, out=str(tmp_path / "drawn")))
    (alone,), together = losses(tmp_path, 1), losses(tmp_path, 2)
    assert len(together) == 2
    for each in together:
        assert each == pytest.approx(alone, rel=1e-3)
