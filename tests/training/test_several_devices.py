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

folder = sys.argv[1]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
one = loop.choose_strategy
dataset = FaceDataset.load(f"{folder}/drawn")
losses = {}
# k-fold trains one after the other in a process
for name, strategy in (("alone", one), ("first", lambda: mirrored), ("second", lambda: mirrored)):
    loop.choose_strategy = strategy
    config = TrainConfig(
        data=str(dataset.path), arch="cnn", layers=[6, 8], batch_norm=False, dropout=0.0, augment=False, epochs=2,
        batch_size=10, precision="float32", tensorboard=False, out=f"{folder}/{name}", saved_models=folder, export=name,
    ).resolved()
    run = start_run(config, dataset)
    loop.fit_one(config, dataset.subset(run.rows("train")[:60]), dataset.subset(run.rows("validation")), run)
    model = run.load_model("best")
    losses[name] = [float(line.split(",")[2]) for line in (run.path / "history.csv").read_text().splitlines()[1:]]
print(json.dumps(losses))
"""


def test_two_devices_learn_what_one_learns(tmp_path):
    """Each batch of 10 is halved among the two, and the mean of their gradients is that of the batch; in bfloat16 to 1% only."""
    from fer_keras.data.prepare import PrepareSettings, prepare

    prepare(PrepareSettings(source="synthetic", count=100, size=32, out=str(tmp_path / "drawn")))
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads(done.stdout.strip().splitlines()[-1])
    assert losses["first"] == pytest.approx(losses["alone"], rel=1e-3)
    assert losses["second"] == pytest.approx(losses["alone"], rel=1e-3)
