"""`neuralflow data`: prepare a data set, or show a prepared one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class Data:
    """Download and prepare a TFDS data set, or show a prepared one.

    The action `prepare` is the only one that downloads anything. TFDS needs TensorFlow to prepare
    most of its sets, but not to read them. The action `show` prints features, splits and sizes.
    """

    action: Positional[Literal["prepare", "show"]]
    """What to do: prepare or show."""
    name: Positional[str]
    """The name of the set in TFDS, such as mnist, cifar10, fashion_mnist or mnist:3.0.1."""
    data_dir: Path | None = None
    """The folder of the prepared sets. The default is the folder of TFDS itself."""


def run(options: Data) -> int:
    """Run `neuralflow data`: prepare a set, or print what a prepared set holds.

    Args:
        options: The options of the command.

    Returns:
        The exit status 0.

    Raises:
        InputError: TFDS knows no set of this name, or the set cannot be read.
        DataMissing: The set to show is not prepared.
        ConnectionError: The set cannot be downloaded.
        ExtraMissing: A package that the action needs is not installed.
    """
    from neuralflow import data

    if options.action == "prepare":
        folder = data.prepare(options.name, data_dir=options.data_dir)
        print(f"{options.name} is prepared in {folder}")
        return 0
    info = data.source(options.name, "all", data_dir=options.data_dir).dataset_info
    splits = ", ".join(f"{name} {split.num_examples}" for name, split in info.splits.items())
    print(f"{info.name} {info.version}: {splits}")
    for name, feature in info.features.items():
        print(f"  {name}: {feature}")
    return 0
