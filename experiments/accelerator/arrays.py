"""Write CIFAR-10 as .npz files that travel to a machine without network and TFDS.

    python -m experiments.accelerator.arrays --data-dir FOLDER --out ARRAYS

FOLDER holds the set as TFDS writes it (`neuralflow data prepare cifar10 --data-dir FOLDER`). Files
of 1000 images each go to the folder ARRAYS. First come all test images, where they take at most
half of --megabytes, then as many training images as fit. The whole set takes about 112 MB. Writes
arrays.json beside them. A quick run writes random images.

A file holds differences of neighbouring pixels and colours, modulo 256. These compress to two
thirds of the images' own size.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.program import Parser
from neuralflow import data, files

BLOCK = 1000
Images = dict[str, np.ndarray]
"""Images `image` (samples, height, width, 3), uint8, and their classes `label` (samples,)."""


def write(sets: Mapping[str, Images], folder: Path, limit: float) -> dict[str, int]:
    """Write test and training images to an empty folder.

    Args:
        sets: The images of "train" and of "test".
        folder: The folder. A missing folder is made.
        limit: The bytes of all files. The test images take half of them at most.

    Returns:
        The number of images written, of "test" and of "train", and the "bytes" of all files.

    Raises:
        ValueError: The folder holds .npz files already, or the limit is too small for a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.npz")):
        raise ValueError(f"{folder} holds .npz files already; give an empty folder")
    written, used, least = {}, 0, 0
    for split, most in (("test", limit / 2), ("train", limit)):
        images, labels = sets[split]["image"], sets[split]["label"]
        written[split] = 0
        for start in range(0, len(labels), BLOCK):
            block = slice(start, start + BLOCK)
            content = io.BytesIO()
            np.savez_compressed(content, differences=coded(images[block]), label=labels[block])
            if used + content.tell() > most:
                least = (used + content.tell()) * (2 if split == "test" else 1)
                break
            path = folder / f"{split}-{start // BLOCK:03d}.npz"
            files.write(path, lambda path, content=content: path.write_bytes(content.getvalue()))
            used += content.tell()
            written[split] += len(labels[block])
        if not written[split]:
            raise ValueError(
                f"{limit / 1e6:g} MB are too few for {BLOCK} {split} images; give at least "
                f"{least / 1e6:.2g}"
            )
    return {**written, "bytes": used}


def read(folder: Path) -> dict[str, Images]:
    """Read the images that `write` has written, of "train" and of "test".

    Raises:
        ValueError: The folder holds no such files, or a file is damaged.
    """
    sets = {}
    for split, paths in check(folder).items():
        blocks = [_block(path) for path in paths]
        sets[split] = {key: np.concatenate([b[key] for b in blocks]) for key in blocks[0]}
    return sets


def check(folder: Path) -> dict[str, list[Path]]:
    """Return the files of "train" and of "test" in a folder.

    Raises:
        ValueError: The folder lacks files of one of them.
    """
    files = {split: sorted(folder.glob(f"{split}-*.npz")) for split in ("train", "test")}
    for split, paths in files.items():
        if not paths:
            raise ValueError(
                f"{folder} holds no files {split}-000.npz and so on; write them with "
                "python -m experiments.accelerator.arrays --data-dir FOLDER --out ARRAYS"
            )
    return files


def _block(path: Path) -> Images:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return {"image": decoded(held["differences"]), "label": held["label"]}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); copy or write it again") from None


def coded(images: np.ndarray) -> np.ndarray:
    """Return differences (samples, 3, height, width) of images (samples, height, width, 3).

    Red and blue become differences to green. Every pixel then becomes its mixed second difference
    over rows and columns. All differences are modulo 256.
    """
    planes = np.moveaxis(images, 3, 1).copy()
    planes[:, [0, 2]] -= planes[:, 1:2]
    for axis in (2, 3):
        planes = np.diff(planes, axis=axis, prepend=np.uint8(0))
    return planes


def decoded(differences: np.ndarray) -> np.ndarray:
    """Return the images that `coded` has coded."""
    planes = differences
    for axis in (2, 3):
        planes = np.cumsum(planes, axis=axis, dtype=np.uint8)
    planes[:, [0, 2]] += planes[:, 1:2]
    return np.ascontiguousarray(np.moveaxis(planes, 1, 3))


def drawn(count: int) -> dict[str, Images]:
    """Return random images of the same form, to see that a program runs."""

    def split(seed: int) -> Images:
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return {"image": images, "label": np.arange(count, dtype=np.int32) % 10}

    return {"train": split(0), "test": split(1)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, data="taken")
    parser.add_argument(
        "--megabytes",
        type=float,
        default=50.0,
        help="size of all files, in millions of bytes, 50 by default",
    )
    run = parser.begin(arguments)
    options = run.options
    if not 0 < options.megabytes < float("inf"):
        parser.error(f"--megabytes must be a number above 0, got {options.megabytes:g}")
    try:
        sets = drawn(64) if options.quick else loaded(options.data_dir)
        written = write(sets, run.folder, 1e6 * options.megabytes)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    run.write("arrays", {"written": written})
    print(
        f"{written['train']} training and {written['test']} test images, "
        f"{written['bytes'] / 1e6:.1f} MB"
    )


def loaded(folder: Path | None) -> dict[str, Images]:
    """Load the whole set."""
    return {split: data.load("cifar10", split, data_dir=folder) for split in ("train", "test")}


if __name__ == "__main__":
    main()
