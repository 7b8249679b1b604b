"""`neuralflow data`: what is prepared, and preparing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from neuralflow.cli.common import UsageError


@dataclass(frozen=True)
class Data:
    """Downloads and prepares a TFDS data set, or shows one that is there.

    `prepare` is the only command that uses the network; TFDS needs TensorFlow to prepare most of its sets, none to
    read them. `show` prints features, splits and sizes.
    """

    action: Positional[Literal["prepare", "show"]]
    """prepare or show."""
    name: Positional[str]
    """Name in TFDS: mnist, cifar10, fashion_mnist, mnist:3.0.1, ..."""
    data_dir: Path | None = None
    """Folder of the prepared sets; TFDS's own by default."""


def run(options: Data) -> int:
    """Prepares, or shows."""
    from neuralflow import data

    try:
        if options.action == "prepare":
            print(
                f"{options.name} is prepared in {data.prepare(options.name, data_dir=options.data_dir)}"
            )
            return 0
        info = data.source(options.name, "all", data_dir=options.data_dir).dataset_info
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    print(
        f"{info.name} {info.version}: {', '.join(f'{n} {s.num_examples}' for n, s in info.splits.items())}"
    )
    for name, feature in info.features.items():
        print(f"  {name}: {feature}")
    return 0
