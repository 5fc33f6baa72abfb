"""Does the input feed faster than the model eats? Faces a second of our tf.data input, of what users would pick instead
(the same variations as Keras preprocessing layers in tf.data), and of the training itself, in one run.

    python -m benchmarks.input_pipeline [--faces 8000] [--repeats 5]
"""

import argparse
import statistics
import time

import numpy as np


def main() -> None:
    """Print medians over the repeats, and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    import tempfile
    from pathlib import Path

    import keras
    import tensorflow as tf

    from fer_keras.data import pipeline
    from fer_keras.data.dataset import DatasetWriter
    from fer_keras.models.registry import create_model

    batch, size = 64, 48
    faces = np.random.default_rng(0).integers(0, 256, (args.faces, size, size, 1), np.uint8)
    with tempfile.TemporaryDirectory() as folder, DatasetWriter(Path(folder) / "d", image_size=size, channels=1) as writer:
        for face in faces:
            writer.add(face)
        columns = {name: [""] * args.faces for name in ("label", "split", "reason", "source")}
        dataset = writer.finish({**columns, "kept": [True] * args.faces}, labels=["a", "b"])
        targets = np.eye(8, dtype=np.float32)[np.arange(args.faces) % 8]
        load = pipeline.face_loader(dataset, np.arange(args.faces), augment=pipeline.Augmentation())
        ours = pipeline.training_stream(load, targets, batch_size=batch, seed=0)

        layers = keras.Sequential(
            [
                keras.layers.RandomFlip("horizontal"),
                keras.layers.RandomRotation(12 / 360, fill_mode="nearest"),
                keras.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
                keras.layers.RandomZoom(0.15, fill_mode="nearest"),
                keras.layers.RandomBrightness(0.2),
                keras.layers.RandomContrast(0.2, value_range=(0, 255)),
                keras.layers.RandomErasing(scale=(0.02, 0.06), value_range=(0, 255)),
            ]
        )
        usual = (
            tf.data.Dataset.from_tensor_slices((faces, targets))
            .shuffle(args.faces)
            .repeat()
            .batch(batch)
            .map(lambda x, y: (layers(tf.cast(x, tf.float32), training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
        )
        model = create_model("cnn", classes=8, image_size=size, channels=1)
        model.compile("adamw", "categorical_crossentropy")
        steps = args.faces // batch

        def feed(stream: tf.data.Dataset) -> float:
            iterator = iter(stream)
            next(iterator)
            start = time.perf_counter()
            for _ in range(steps):
                next(iterator)
            return steps * batch / (time.perf_counter() - start)

        def train() -> float:
            few = max(10, steps // 8)
            start = time.perf_counter()
            model.fit(ours, steps_per_epoch=few, epochs=1, verbose=0, shuffle=False)
            return few * batch / (time.perf_counter() - start)

        train()  # traces the graph
        rates = {"ours": [], "keras layers": [], "training cnn/main": []}
        for _ in range(args.repeats):
            rates["ours"].append(feed(ours))
            rates["keras layers"].append(feed(usual))
            rates["training cnn/main"].append(train())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name:20} {value:10,.0f} faces/s   (min {min(rates[name]):,.0f}, max {max(rates[name]):,.0f})")
    print(f"ours feeds {medians['ours'] / medians['training cnn/main']:.0f} times as fast as the model eats")
    print(f"ours feeds {medians['ours'] / medians['keras layers']:.1f} times as fast as Keras preprocessing layers")


if __name__ == "__main__":
    main()
