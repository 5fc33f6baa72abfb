"""Small data sets in the layouts that people have, written without the code under test."""

import csv

import numpy as np
from PIL import Image

VOTES_HEADER = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]


def pictures(count, size=48, seed=0):
    """Distinct pictures with contrast: uint8 (count, size, size)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)


def photograph(seed):
    """Smooth like a photograph, uint8 (48, 48): noise would have no stable perceptual hash."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 7), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC))


def write_rows(path, rows, delimiter=","):
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def pixel_text(picture):
    return " ".join(str(value) for value in picture.ravel().tolist())


def kaggle_csv(path, faces, codes, usage, header=("emotion", "pixels", "Usage")):
    return write_rows(path, [header, *([c, pixel_text(f), u] for c, f, u in zip(codes, faces, usage, strict=True))])


def votes_csv(path, votes, usage):
    rows = [[u, f"fer{i:07d}.png", *v] for i, (v, u) in enumerate(zip(votes, usage, strict=True))]
    return write_rows(path, [["Usage", "Image name", *VOTES_HEADER], *rows])


def votes_for(**counts):
    return [counts.get(name, 0) for name in VOTES_HEADER]


def class_folders(root, spec, size=48, seed=0):
    """spec: {"train/angry": 3, ...}; every picture differs."""
    total = iter(pictures(sum(spec.values()), size, seed))
    for folder, count in spec.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(next(total)).save(root / folder / f"{index:03d}.png")
    return root
