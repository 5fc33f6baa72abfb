"""What caching the features of a frozen backbone saves: a 10-epoch frozen phase of DenseNet121, cached against live.

    python -m benchmarks.frozen_features [--epochs 10] [--repeats 3] [--faces 2400]

Both train the same head from the same weights on the drawn faces; the time is that of the phase as the run records it.
"""

import argparse
import statistics
import tempfile


def main() -> None:
    """Print the seconds of each pair and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--faces", type=int, default=2400)
    args = parser.parse_args()

    from fer_keras.cli import import_tensorflow
    from fer_keras.data.prepare import PrepareSettings, prepare
    from training.config import TrainConfig
    from training.loop import fit_one
    from training.train import start_run

    import_tensorflow()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(PrepareSettings(source="synthetic", count=args.faces, out=f"{folder}/drawn"))
        for repeat in range(args.repeats):
            seconds, losses = {}, {}
            for how in ("cached", "live"):
                config = TrainConfig(
                    data=str(dataset.path),
                    arch="densenet121",
                    weights="none",
                    frozen_epochs=args.epochs,
                    finetune_epochs=0,
                    patience=args.epochs,
                    frozen_features=how,
                    augment=False,
                    tensorboard=False,
                    out=f"{folder}/{how}{repeat}",
                    saved_models=folder,
                    export=f"{how}{repeat}",
                ).resolved()
                run = start_run(config, dataset)
                rows = [dataset.subset(run.rows(split)) for split in ("train", "validation")]
                result = fit_one(TrainConfig.from_dict(run.config), *rows, run)
                seconds[how], losses[how] = result.seconds["frozen"], result.best_val_loss
            ratios.append(seconds["live"] / seconds["cached"])
            print(f"pair {repeat + 1}: cached {seconds['cached']:.1f} s, live {seconds['live']:.1f} s, ratio {ratios[-1]:.1f}")
            print(f"         best validation loss: cached {losses['cached']:.4f}, live {losses['live']:.4f}")
    print(f"median ratio {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
