"""Data sets as dicts of NumPy arrays. Nothing here downloads anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Data = dict[str, np.ndarray]


def digits_pair(first: int = 3, second: int = 8, components: int = 4) -> Data:
    """scikit-learn's 8x8 digits, two classes, as whitened principal components: x (samples, components), y in {0, 1}.

    3 against 8 has 357 samples. Needs the extra `data`.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits need scikit-learn; install the extra: pip install 'neuralflow-jax[data]'") from error
    images, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, (first, second))
    x = images[chosen] - images[chosen].mean(axis=0)
    _, scale, axes = np.linalg.svd(x, full_matrices=False)
    if not 1 <= components <= int((scale > 1e-10 * scale[0]).sum()):
        raise ValueError(f"components must lie between 1 and {int((scale > 1e-10 * scale[0]).sum())}, got {components}")
    # A component's sign is arbitrary: fix it, so that every platform sees the same data.
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    scores = x @ axes[:components].T
    return {"x": scores / scores.std(axis=0), "y": (labels[chosen] == second).astype(float)}


def from_file(path: Path) -> Data:
    """Arrays x (samples, features) and y (samples,) from an .npz file; ValueError says what is wrong with it."""
    try:
        with np.load(path, allow_pickle=False) as held:
            found = {name: np.asarray(held[name], float) for name in ("x", "y") if name in held}
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}; give 'digits' or an .npz file with arrays x and y") from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an .npz file of numbers ({error})") from None
    if set(found) != {"x", "y"}:
        raise ValueError(f"{path} must hold arrays x (samples, features) and y (samples,), it holds {sorted(found)} of them")
    return found
