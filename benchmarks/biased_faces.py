"""Drawn faces with a gap that was put in: women are shown as negatives, and most of those in training are left out.

    python -m benchmarks.biased_faces --keep 0.1 --out data/prepared/biased

A network that saw few women has then not learnt to read them: something that mitigation can be measured on. Test and validation
faces have as many women as men.
"""

import argparse

import numpy as np


def main() -> None:
    """Write the data set and print how many training faces are of women."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--keep", type=float, default=0.1, help="share of the training women to keep")
    parser.add_argument("--faces", type=int, default=4800)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    from fer_keras.data.dataset import DatasetWriter
    from fer_keras.data.splits import strata_of, stratified_split
    from fer_keras.data.synthetic import draw_faces
    from fer_keras.labels import EMOTIONS

    faces, table = draw_faces(args.faces, args.seed, args.size)
    strata = strata_of(table["label"], [table["gender"]], 7)
    split = stratified_split(strata, seed=args.seed, groups=table["identity"])
    women = (table["gender"] == "Female").to_numpy()
    chance = np.random.RandomState(args.seed).uniform(size=len(faces))
    kept = ~women | (split != "train") | (chance < args.keep)
    faces[women] = 255 - faces[women]
    with DatasetWriter(args.out, image_size=args.size, channels=1, overwrite=True) as writer:
        for face in faces[kept]:
            writer.add(face)
        n = int(kept.sum())
        columns = {"label": table["label"][kept], "split": split[kept], "kept": [True] * n, "reason": [""] * n}
        columns |= {name: table[name][kept] for name in ("gender", "age_group", "identity")}
        columns["source"] = [f"drawn:{args.seed}:{index}" for index in np.flatnonzero(kept)]
        made = writer.finish(columns, labels=EMOTIONS, group_columns=("gender", "age_group"), info={"source": "synthetic"})
    train = made.manifest["gender"][made.rows("train")].value_counts().to_dict()
    print(f"{made.path}: {n} faces, training {train}")


if __name__ == "__main__":
    main()
