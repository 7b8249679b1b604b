"""TensorFlow data sets, read without TensorFlow: `load` decodes once into arrays, `source` reads one by one.

Names and splits are those of TFDS ("cifar10", "mnist:3.0.1", "train[:90%]+test"). Needs the extra `data`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.data.arrays import Data, numeric

_BLOCK = 1000  # examples decoded at a time: TFDS reads blocks many times faster than single ones


class DataMissing(FileNotFoundError):
    """A data set that is not prepared; the message says where it was looked for and what prepares it."""


def load(name: str, split: str = "train", *, data_dir: Any = None, cache: Any = None) -> Data:
    """A split as a dict of arrays, every feature with a leading axis of its length; text features are left out.

    Images stay uint8, labels become int32. Decoded once: the arrays are kept under `cache` (default: the user's cache
    folder; False for none). `data_dir` defaults to TFDS's own. Raises DataMissing where the set is not prepared,
    ValueError for an unknown split and for examples of unequal shapes.
    """
    examples = source(name, split, data_dir=data_dir)
    place = None if cache is False else _cache_folder(cache) / _fingerprint(examples, name, split)
    kept = None if place is None else _from_cache(place)
    if kept is not None:
        return kept
    blocks = [_block(examples, start) for start in range(0, len(examples), _BLOCK)]
    data = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    if place is not None:
        _to_cache(place, data)
    return data


def source(name: str, split: str = "train", *, data_dir: Any = None) -> Any:
    """A split that decodes example by example, for sets that do not fit in memory: see `Stream`."""
    checks.instance("name", name, str, "the name of a TFDS set such as 'mnist'")
    checks.instance("split", split, str, "one TFDS split such as 'train[:90%]'")
    folder = _data_dir(data_dir)
    _check_prepared(name, folder)
    with _quiet():
        import tensorflow_datasets as tfds

        logging.getLogger("absl").addFilter(_unasked)
        try:
            examples = tfds.data_source(name, split=split, data_dir=str(folder), download=False)
        except (ValueError, AssertionError) as error:
            raise InputError(
                f"the split {split!r} of {name} cannot be read: {str(error).splitlines()[0]}"
            ) from None
    try:
        empty = not len(examples)
    except ValueError:  # a slice that ends before it begins
        empty = True
    if empty:
        raise InputError(
            f"the split {split!r} of {name} holds no examples; give one that does, such as 'train[:90%]'"
        )
    if isinstance(examples, dict):
        raise InputError(
            f"give one split of {name}, such as 'train[:90%]'; it has {', '.join(examples)}"
        )
    return examples


def prepare(name: str, *, data_dir: Any = None) -> Path:
    """Downloads and prepares a data set for reading; the only function here that uses the network.

    TFDS needs TensorFlow to *prepare* most of its sets. Returns the folder. Raises ConnectionError where the set cannot
    be downloaded.
    """
    folder = _data_dir(data_dir)
    logging.getLogger("urllib3").setLevel(
        logging.ERROR
    )  # for good: threads of a failed download go on for a while
    with _quiet():
        import requests  # TFDS's own
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download import downloader

        downloader.MAX_RETRIES = (
            3  # ten, as they come, are minutes of silence where there is no network
        )
        try:
            builder = tfds.builder(name, data_dir=str(folder), file_format="array_record")
            # One download folder a set: TFDS mixes up files of the same name from different sets.
            builder.download_and_prepare(
                download_dir=str(folder / "downloads" / name.split(":")[0].replace("/", "_"))
            )
        except ImportError as error:
            raise ImportError(
                f"preparing {name} needs TensorFlow ({error}); install it beside the extra: pip install tensorflow"
            ) from None
        except tfds.core.DatasetNotFoundError:
            raise InputError(
                f"TFDS knows no data set {name!r}; the names are at tensorflow.org/datasets/catalog"
            ) from None
        except (
            ConnectionError,
            tfds.download.DownloadError,
            requests.exceptions.RequestException,
        ) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConnectionError(
                f"{name} could not be downloaded ({reason}); connect to the network, or copy a prepared set into {folder}"
            ) from None
    return folder / name.split(":")[0]


def _data_dir(folder: Any) -> Path:
    try:
        from tensorflow_datasets.core import constants
    except ImportError as error:
        raise ImportError(
            f"reading TFDS needs tensorflow-datasets, array_record and pillow ({error}); "
            "install the extra: pip install 'neuralflow-jax[data]'"
        ) from None
    return Path(constants.DATA_DIR if folder is None else folder).expanduser()


def _check_prepared(name: str, folder: Path) -> None:
    """DataMissing unless the set lies there in a format that can be read; TFDS itself would speak of TFRECORD."""
    base, _, version = name.partition(":")
    records = sorted((folder / base).glob(f"{version or '*'}/dataset_info.json"))
    remedy = f"prepare it with: neuralflow data prepare {name} --data-dir {folder} (downloads it)"
    if not records:
        have = sorted(
            {
                path.parent.relative_to(folder).as_posix().replace("/", ":")
                for path in folder.glob("*/*/dataset_info.json")
            }
        )
        there = f"; there {'are' if len(have) > 1 else 'is'} {', '.join(have)}" if have else ""
        raise DataMissing(
            f"the data set {name!r} is not prepared in {folder}{there}; {remedy}, or name the folder that holds it"
        )
    try:
        form = json.loads(records[-1].read_text()).get("fileFormat", "tfrecord")
    except (OSError, ValueError) as error:
        raise DataMissing(
            f"{records[-1]} is damaged ({error}); {remedy} after removing {records[-1].parent}"
        ) from None
    if form != "array_record":
        raise DataMissing(
            f"{records[-1].parent} is in the format {form}, which only TensorFlow reads; remove it and {remedy}"
        )


def _block(examples: Any, start: int) -> Data:
    block = examples.__getitems__(range(start, min(start + _BLOCK, len(examples))))
    rows = [numeric(row) for row in block]
    arrays = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            shown = ", ".join(map(str, sorted(shapes)[:3]))
            raise InputError(
                f"the feature {key!r} has examples of unequal shapes ({shown}); read it with data.Stream and resize"
            )
        arrays[key] = np.stack(values)
    if not arrays:
        raise InputError(f"none of the features {', '.join(block[0])} is numeric")
    return arrays


def _cache_folder(folder: Any) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (
        Path(folder).expanduser() if folder is not None else Path(home).expanduser() / "neuralflow"
    )


def _fingerprint(examples: Any, name: str, split: str) -> str:
    """Names the prepared files and the split: a set that was prepared anew is decoded anew."""
    folder = Path(examples.dataset_info.data_dir)
    files = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
    ]
    mark = hashlib.sha256(repr((str(folder.resolve()), split, files)).encode()).hexdigest()[:16]
    return f"{name.replace('/', '_').replace(':', '-')}-{mark}"


def _from_cache(place: Path) -> Data | None:
    try:
        names = json.loads((place / "names.json").read_text())
        return {name: np.load(place / f"{name}.npy", allow_pickle=False) for name in names}
    except (OSError, ValueError, EOFError):
        return None


def _to_cache(place: Path, data: Data) -> None:
    """Writes the folder whole or not at all; where that is impossible the data is decoded again next time."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=place.parent))
        try:
            for key, values in data.items():
                np.save(partial / f"{key}.npy", values)
            (partial / "names.json").write_text(json.dumps(sorted(data)))
            shutil.rmtree(place, ignore_errors=True)
            partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError:
        logging.getLogger(__name__).info("the decoded arrays could not be kept in %s", place)


def _unasked(entry: logging.LogRecord) -> bool:
    """Drops TFDS's advice to install a faster decoder."""
    return "OpenCV" not in entry.getMessage()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS's hints about other decoders are not the reader's affair."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
