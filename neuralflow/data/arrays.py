"""Arrays from scikit-learn's digits and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from neuralflow.checks import InputError

Data = dict[str, np.ndarray]


def numeric(row: dict[str, Any]) -> Data:
    """The features of an example that are numbers, labels as int32; text is left out."""
    arrays = {key: np.asarray(value) for key, value in row.items()}
    return {
        key: a.astype(np.int32) if a.dtype == np.int64 else a
        for key, a in arrays.items()
        if a.dtype.kind not in "SUO"
    }


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: the same for arrays and for a stream of the same examples."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def digits(split: str = "train") -> Data:
    """scikit-learn's 8x8 digits: x (samples, 8, 8, 1) float32 in [0, 1], y (samples,) int32, shuffled once for all.

    `split`: "train" (1437 samples) or "test" (360). Needs the extra `data`.
    """
    images, labels = _digits()
    order = np.random.default_rng(0).permutation(len(labels))
    edge = len(labels) * 4 // 5
    if split not in ("train", "test"):
        raise InputError(f"the digits have the splits 'train' and 'test', got {split!r}")
    chosen = order[:edge] if split == "train" else order[edge:]
    x = (images[chosen] / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return {"x": x, "y": labels[chosen].astype(np.int32)}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits need scikit-learn; install the extra: pip install 'neuralflow-jax[data]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    return np.asarray(images), np.asarray(labels)


def digits_pair(first: int = 3, second: int = 8, components: int = 4) -> Data:
    """scikit-learn's 8x8 digits, two classes, as whitened principal components: x (samples, components), y in {0, 1}.

    3 against 8 has 357 samples. Needs the extra `data`.
    """
    images, labels = _digits()
    chosen = np.isin(labels, (first, second))
    x = images[chosen] - images[chosen].mean(axis=0)
    _, scale, axes = np.linalg.svd(x, full_matrices=False)
    if not 1 <= components <= int((scale > 1e-10 * scale[0]).sum()):
        raise InputError(
            f"components must lie between 1 and {int((scale > 1e-10 * scale[0]).sum())}, got {components}"
        )
    # A component's sign is arbitrary: fix it, so that every platform sees the same data.
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    scores = x @ axes[:components].T
    return {"x": scores / scores.std(axis=0), "y": (labels[chosen] == second).astype(float)}


def from_file(path: Path) -> Data:
    """Arrays x (samples, features) and y (samples,) from an .npz file; ValueError says what is wrong with it."""
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            raise InputError("one array without names")
        with held:
            arrays = {name: np.asarray(held[name], float) for name in ("x", "y") if name in held}
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path}; give 'digits' or an .npz file with arrays x and y"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        reason = "" if "pickle" in str(error) else f" ({error})"
        raise InputError(
            f"{path} is not an .npz file of numbers{reason}; write one with np.savez(path, x=..., y=...)"
        ) from None
    if set(arrays) != {"x", "y"}:
        raise InputError(
            f"{path} must hold arrays x (samples, features) and y (samples,), it holds {sorted(arrays)} of them"
        )
    return arrays
