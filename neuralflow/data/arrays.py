"""Read arrays from scikit-learn's digits and from files.

The type `Data`, the conversion of examples to arrays and the order of an epoch stand here too.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from neuralflow import checks
from neuralflow.checks import ExtraMissing, InputError

Data = dict[str, np.ndarray]
"""Arrays by name, such as x and y; the first axis of every array counts the samples."""


def numeric(row: dict[str, Any]) -> Data:
    """Return the numeric features of an example as arrays.

    Args:
        row: The example, a dict of features by name.

    Returns:
        The features that are numbers, with int64 turned into int32. Text is left out.
    """
    arrays = {key: np.asarray(value) for key, value in row.items()}
    return {
        key: a.astype(np.int32) if a.dtype == np.int64 else a
        for key, a in arrays.items()
        if a.dtype.kind not in "SUO"
    }


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the samples in an epoch.

    The order is the same for arrays and for a stream of the same examples.

    Args:
        count: The number of samples.
        seed: The seed of the training.
        epoch: The number of the epoch, counted from zero.

    Returns:
        A permutation of the sample numbers, `(count,)`.
    """
    return np.random.default_rng((seed, epoch)).permutation(count)


def digits(split: str = "train") -> Data:
    """Return the 8x8 digits of scikit-learn, images of ten classes.

    One fixed shuffle separates the two splits. This function needs the extra `data`.

    Args:
        split: "train" (1437 samples) or "test" (360 samples).

    Returns:
        The images x `(samples, 8, 8, 1)`, float32 in [0, 1], and the labels y `(samples,)`, int32.

    Raises:
        InputError: `split` is neither "train" nor "test".
        ExtraMissing: scikit-learn is not installed.
    """
    checks.choice("split", split, ("train", "test"))
    images, labels = _digits()
    order = np.random.default_rng(0).permutation(len(labels))
    edge = len(labels) * 4 // 5
    chosen = order[:edge] if split == "train" else order[edge:]
    x = (images[chosen] / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return {"x": x, "y": labels[chosen].astype(np.int32)}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the images `(samples, 64)` and labels `(samples,)` of all digits of scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ExtraMissing(
            "the digits need scikit-learn; install the extra: pip install 'neuralflow-jax[data]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    return np.asarray(images), np.asarray(labels)


def digits_pair(first: int = 3, second: int = 8, components: int = 4) -> Data:
    """Return two classes of the 8x8 digits of scikit-learn as whitened principal components.

    The classes 3 and 8 have 357 samples together. This function needs the extra `data`.

    Args:
        first: The digit that becomes class 0.
        second: The digit that becomes class 1.
        components: The number of principal components.

    Returns:
        The components x `(samples, components)`, each with mean 0 and standard deviation 1, and
        the classes y `(samples,)`, the numbers 0.0 and 1.0.

    Raises:
        InputError: `first` or `second` lies outside of 0 to 9, both are the same digit, or
            `components` is less than 1 or more than the samples have.
        InputTypeError: An argument is no whole number.
        ExtraMissing: scikit-learn is not installed.
    """
    checks.whole("first", first, least=0, most=9)
    checks.whole("second", second, least=0, most=9)
    if first == second:
        raise InputError(f"first and second must be two different digits, got {first} twice")
    checks.whole("components", components)
    images, labels = _digits()
    chosen = np.isin(labels, (first, second))
    x = images[chosen] - images[chosen].mean(axis=0)
    _, scale, axes = np.linalg.svd(x, full_matrices=False)
    checks.whole("components", components, most=int((scale > 1e-10 * scale[0]).sum()))
    # The sign of a component is arbitrary. A fixed sign gives the same data on every platform.
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    scores = x @ axes[:components].T
    return {"x": scores / scores.std(axis=0), "y": (labels[chosen] == second).astype(float)}


def from_file(path: Path) -> Data:
    """Read the arrays x (samples, features) and y (samples,) from an .npz file.

    Args:
        path: The file. Further arrays in the file are not read.

    Returns:
        The arrays x and y, as floats.

    Raises:
        InputError: There is no such file, the file is no .npz file of numbers, or it does not hold
            finite x and y of these shapes. The message says what is wrong.
        InputTypeError: `path` is no path.
    """
    checks.path("path", path)
    try:
        with Path(path).open("rb") as file:  # numpy closes no file that it cannot read.
            held = np.load(file, allow_pickle=False)
            if isinstance(held, np.ndarray):
                raise InputError("one array without names")
            arrays, others = {name: held[name] for name in ("x", "y") if name in held}, held.files
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path}; give 'digits' or an .npz file with arrays x and y"
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = "" if "pickle" in str(error) else f" ({error})"
        raise InputError(
            f"{path} is not an .npz file of numbers{reason}; "
            "write one with np.savez(path, x=..., y=...)"
        ) from None
    if set(arrays) != {"x", "y"}:
        raise InputError(
            f"{path} must hold arrays x (samples, features) and y (samples,), "
            f"it holds {', '.join(sorted(others)) or 'no array'}"
        )
    x, y = (array.astype(float) if array.dtype == bool else array for array in arrays.values())
    x = checks.known_numbers(f"x in {path}", x, "samples", "features")
    return {"x": x, "y": checks.known_numbers(f"y in {path}", y, len(x))}
