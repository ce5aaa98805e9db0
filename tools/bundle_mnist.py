"""Write data/mnist-20000.npz, the part of MNIST that the course bundles, from all of MNIST.

    python -m tools.bundle_mnist path/to/mnist.npz

Digits are drawn at random, stratified by class: training and validation from the official
training part and test digits from the official test part. ``index_*`` holds their positions there.
Running it again on the same arrays gives the same file.
"""

import argparse
from pathlib import Path

import numpy as np

from course_utils.data import DATA_DIR, sha256, split_indices

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="mnist.npz with x_train, y_train, x_test, y_test")
    with np.load(parser.parse_args().source) as file:
        full = dict(file)
    learn = split_indices(
        60_000, fractions=(16 / 60, 2 / 60, 42 / 60), stratify=full["y_train"], seed=SEED
    )
    test = split_indices(10_000, fractions=(0.8, 0, 0.2), stratify=full["y_test"], seed=SEED)
    parts = {}
    for name, official, index in (
        ("train", "train", learn.train),
        ("val", "train", learn.validation),
        ("test", "test", test.test),
    ):
        parts[f"x_{name}"] = full[f"x_{official}"][index]
        parts[f"y_{name}"] = full[f"y_{official}"][index].astype(np.uint8)
        parts[f"index_{name}"] = index.numpy().astype(np.uint16)
    target = DATA_DIR / "mnist-20000.npz"
    np.savez_compressed(target, **parts)
    print(f"{target}: {target.stat().st_size} bytes, SHA-256 {sha256(target)}")


if __name__ == "__main__":
    main()
