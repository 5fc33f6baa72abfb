"""What a k-fold run of a frozen DenseNet costs: all folds against one fold, each in a process of its own.

    python -m benchmarks.kfold [--folds 10] [--jobs 1] [--repeats 3] [--faces 2400] [--size 48] [-- any setting of training.train]

Both are whole commands: start-up, building the network, its features of all faces, training the head, scoring, report. The time
of the processor (user and system, all threads) stands beside the time that passed, since only it means something while other
work runs on the machine; compare pairs that were measured one after the other.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUN = """
import sys
from pathlib import Path
from training import fold_report, folds, kfold
count, words = int(sys.argv[1]), sys.argv[2:]
args = kfold.build_parser().parse_args(words)
run = kfold.start_run(args)
tasks = [folds.FoldTask(str(run.path), fold) for fold in run.folds][:count]
assert not kfold.run_folds(run, tasks, args.jobs)
fold_report.summarize(run, run.dataset())
"""


def cost(count: int, words: list[str]) -> tuple[float, float]:
    """Seconds that passed, and seconds of the processor, of a command that trains the first `count` folds."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", RUN, str(count), *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run failed: {words}")
    return time.monotonic() - began, used.ru_utime + used.ru_stime


def main() -> None:
    """Print the seconds of each pair and the median ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="folds side by side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--faces", type=int, default=2400)
    parser.add_argument("--size", type=int, default=48, help="side of the pictures in pixels; features cost by its square")
    parser.add_argument("settings", nargs="*", help="settings of the training, after --")
    args = parser.parse_args()

    from fer_keras.data.prepare import PrepareSettings, prepare

    ratios: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(PrepareSettings(source="synthetic", count=args.faces, size=args.size, out=f"{folder}/drawn"))
        words = ["--data", str(dataset.path), "--arch", "densenet", "--finetune-epochs", "0", *args.settings]
        words += ["--folds", str(args.folds), "--jobs", str(args.jobs)]
        for repeat in range(args.repeats):
            one, every = (cost(count, [*words, "--out", f"{folder}/{repeat}-{count}"]) for count in (1, args.folds))
            ratios.append((every[0] / one[0], every[1] / one[1]))
            print(
                f"pair {repeat + 1}: one fold {one[0]:.1f} s (processor {one[1]:.1f} s), {args.folds} folds {every[0]:.1f} s "
                f"(processor {every[1]:.1f} s); ratio {ratios[-1][0]:.2f} (processor {ratios[-1][1]:.2f})",
                flush=True,
            )
    passed, processor = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratio {passed:.2f} (processor {processor:.2f})")


if __name__ == "__main__":
    main()
