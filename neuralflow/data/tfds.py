"""Read TensorFlow data sets (TFDS) without TensorFlow.

`load` decodes a split once into arrays. `source` reads a split example by example. `prepare`
downloads a set. Names and splits are written as in TFDS ("cifar10", "mnist:3.0.1",
"train[:90%]+test"). This module needs the extra `data`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuralflow import checks, files
from neuralflow.checks import ExtraMissing, InputError
from neuralflow.data.arrays import Data, numeric

_BLOCK = 1000  # examples decoded at a time: TFDS reads blocks many times faster than single ones


class DataMissing(FileNotFoundError):
    """A data set is not prepared; the message says where it was looked for and what prepares it."""


def load(
    name: str,
    split: str = "train",
    *,
    data_dir: str | Path | None = None,
    cache: str | Path | Literal[False] | None = None,
) -> Data:
    """Read a split as a dict of arrays.

    The split is decoded once. Later calls read the decoded arrays from a cache on disk.

    Args:
        name: The name of the set in TFDS, such as "mnist" or "mnist:3.0.1".
        split: The split in the language of TFDS, such as "train[:90%]+test".
        data_dir: The folder of the prepared sets. The default is the folder of TFDS itself.
        cache: The folder for the decoded arrays. The default is the folder of this package in the
            cache of the user. False keeps nothing.

    Returns:
        One array for every feature that is numeric, with a leading axis of samples. Images stay
        uint8 and labels become int32. Text features are left out.

    Raises:
        DataMissing: The set is not prepared, or is prepared in a format that only TensorFlow reads.
        InputError: `name` is not written as in TFDS, the split is unknown or empty, the examples
            have unequal shapes, or no feature is numeric.
        InputTypeError: `name` or `split` is no text, or `data_dir` or `cache` is no path.
        ExtraMissing: The packages that read TFDS are not installed.
    """
    _check_request(name, split, data_dir)
    if cache is not None and cache is not False:
        checks.path("cache", cache)
    examples = source(name, split, data_dir=data_dir)
    place = None if cache is False else _cache_folder(cache) / _fingerprint(examples, name, split)
    kept = None if place is None else _from_cache(place, len(examples))
    if kept is not None:
        return kept
    blocks = [_block(examples, start) for start in range(0, len(examples), _BLOCK)]
    data = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    if place is not None:
        _to_cache(place, data)
    return data


def source(name: str, split: str = "train", *, data_dir: str | Path | None = None) -> Any:
    """Open a split that decodes example by example, for sets that do not fit in memory.

    The result is the `examples` of a `Stream`.

    Args:
        name: The name of the set in TFDS, such as "mnist" or "mnist:3.0.1".
        split: The split in the language of TFDS, such as "train[:90%]+test".
        data_dir: The folder of the prepared sets. The default is the folder of TFDS itself.

    Returns:
        A data source of TFDS, a sequence with `len` and `[i]` that gives a dict of features.

    Raises:
        DataMissing: The set is not prepared, or is prepared in a format that only TensorFlow reads.
        InputError: `name` is not written as in TFDS, or the split is unknown or empty, or names
            several splits at once.
        InputTypeError: `name` or `split` is no text, or `data_dir` is no path.
        ExtraMissing: The packages that read TFDS are not installed.
    """
    _check_request(name, split, data_dir)
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
            f"the split {split!r} of {name} holds no examples; "
            "give one that does, such as 'train[:90%]'"
        )
    if isinstance(examples, dict):
        raise InputError(
            f"give one split of {name}, such as 'train[:90%]'; it has {', '.join(examples)}"
        )
    return examples


def prepare(name: str, *, data_dir: str | Path | None = None) -> Path:
    """Download and prepare a data set for reading.

    This function is the only one in `neuralflow.data` that uses the network. TFDS needs TensorFlow
    to prepare most of its sets, but not to read them.

    Args:
        name: The name of the set in TFDS, such as "mnist" or "mnist:3.0.1".
        data_dir: The folder for the prepared sets. The default is the folder of TFDS itself.

    Returns:
        The folder of the prepared set.

    Raises:
        InputError: `name` is not written as in TFDS, or TFDS knows no set of this name.
        InputTypeError: `name` is no text, or `data_dir` is no path.
        ConnectionError: The set cannot be downloaded.
        ExtraMissing: TensorFlow, or a package that reads TFDS, is not installed.
    """
    _check_request(name, "train", data_dir)
    folder = _data_dir(data_dir)
    logging.getLogger("urllib3").setLevel(
        logging.ERROR
    )  # never set back: threads of a failed download go on for a while
    with _quiet():
        import requests  # TFDS's own
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download import downloader

        downloader.MAX_RETRIES = 3  # the default of ten means minutes of silence without a network
        try:
            builder = tfds.builder(name, data_dir=str(folder), file_format="array_record")
            # Every set has a download folder of its own, because TFDS mixes up files of the same
            # name from different sets.
            builder.download_and_prepare(
                download_dir=str(folder / "downloads" / name.split(":")[0].replace("/", "_"))
            )
        except ImportError as error:
            raise ExtraMissing(
                f"preparing {name} needs TensorFlow ({error}); "
                "install it beside the extra: pip install tensorflow"
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
                f"{name} could not be downloaded ({reason}); "
                f"connect to the network, or copy a prepared set into {folder}"
            ) from None
    return folder / name.split(":")[0]


def _check_request(name: Any, split: Any, data_dir: Any) -> None:
    """Refuse what is no name of a set, no split or no folder.

    A name stands for a folder inside `data_dir`: a name such as "../x" would leave that folder.
    """
    checks.instance("name", name, str, "the name of a TFDS set such as 'mnist'")
    if not re.fullmatch(r"\w+(/\w[\w.+=-]*)*(:[\w.*]+)?", name):
        raise InputError(
            f"name must be written as in TFDS, such as 'mnist', 'glue/cola' or 'mnist:3.0.1', got "
            f"{name!r}; arrays of your own go to neuralflow.training.fit"
        )
    checks.instance("split", split, str, "one TFDS split such as 'train[:90%]'")
    if data_dir is not None:
        checks.path("data_dir", data_dir)


def _data_dir(folder: Any) -> Path:
    """Return the folder of the prepared sets; None means the folder of TFDS itself."""
    try:
        from tensorflow_datasets.core import constants
    except ImportError as error:
        raise ExtraMissing(
            f"reading TFDS needs tensorflow-datasets, array_record and pillow ({error}); "
            "install the extra: pip install 'neuralflow-jax[data]'"
        ) from None
    return Path(constants.DATA_DIR if folder is None else folder).expanduser()


def _check_prepared(name: str, folder: Path) -> None:
    """Raise DataMissing unless the folder holds the set in a format that can be read.

    The messages of TFDS itself would speak of TFRECORD.
    """
    base, _, version = name.partition(":")
    kept = f"{base}/{version or '*'}/dataset_info.json"
    records = sorted(folder.glob(kept))
    remedy = f"prepare it with: neuralflow data prepare {name} --data-dir {folder} (downloads it)"
    if not records:
        have = sorted(
            {
                path.parent.relative_to(folder).as_posix().replace("/", ":")
                for path in folder.glob("*/*/dataset_info.json")
            }
        )
        there = f"; there {'are' if len(have) > 1 else 'is'} {', '.join(have)}" if have else ""
        if any(folder.parent.glob(kept)):
            raise DataMissing(
                f"the data set {name!r} is not prepared in {folder}{there}, but in the folder "
                f"above; name {folder.parent}"
            )
        raise DataMissing(
            f"the data set {name!r} is not prepared in {folder}{there}; "
            f"{remedy}, or name the folder that holds it"
        )
    try:
        form = json.loads(records[-1].read_text()).get("fileFormat", "tfrecord")
    except (OSError, ValueError) as error:
        raise DataMissing(
            f"{records[-1]} is damaged ({error}); {remedy} after removing {records[-1].parent}"
        ) from None
    if form != "array_record":
        raise DataMissing(
            f"{records[-1].parent} is in the format {form}, which only TensorFlow reads; "
            f"remove it and {remedy}"
        )


def _block(examples: Any, start: int) -> Data:
    """Decode a block of examples from `start` on into arrays."""
    block = examples.__getitems__(range(start, min(start + _BLOCK, len(examples))))
    rows = [numeric(row) for row in block]
    arrays = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            shown = ", ".join(map(str, sorted(shapes)[:3]))
            raise InputError(
                f"the feature {key!r} has examples of unequal shapes ({shown}); "
                "read it with data.Stream and resize"
            )
        arrays[key] = np.stack(values)
    if not arrays:
        raise InputError(f"none of the features {', '.join(block[0])} is numeric")
    return arrays


def _cache_folder(folder: Any) -> Path:
    """Return the folder for decoded arrays; None means the cache of the user."""
    return files.user_cache() if folder is None else Path(folder).expanduser()


def _fingerprint(examples: Any, name: str, split: str) -> str:
    """Return a name for the prepared files and the split.

    A set that was prepared anew gets a new name, so that the set is decoded anew.
    """
    folder = Path(examples.dataset_info.data_dir)
    held = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
    ]
    mark = hashlib.sha256(repr((str(folder.resolve()), split, held)).encode()).hexdigest()[:16]
    return f"{name.replace('/', '_').replace(':', '-')}-{mark}"


def _from_cache(place: Path, samples: int) -> Data | None:
    """Read the decoded arrays, or return None if they are missing, damaged or of another length."""
    try:
        index = files.unseal(json.loads((place / "names.json").read_text()))
        data = {name: np.load(_array(place, name), allow_pickle=False) for name in index["names"]}
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    whole = files.digest(*data.values()) == index["arrays"]
    return data if whole and all(len(array) == samples for array in data.values()) else None


def _array(place: Path, name: str) -> Path:
    """Return the file of an array, and refuse a name that leads out of the folder."""
    path = place / f"{name}.npy"
    if path.parent != place or not name.isprintable():
        raise OSError(f"the feature {name!r} cannot be the name of a file")
    return path


def _to_cache(place: Path, data: Data) -> None:
    """Write the folder whole or not at all.

    If the folder cannot be written, the data is decoded again next time.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=place.parent))
        try:
            for name, values in data.items():
                np.save(_array(partial, name), values)
            index = files.seal({"names": list(data), "arrays": files.digest(*data.values())})
            (partial / "names.json").write_text(json.dumps(index))
            shutil.rmtree(place, ignore_errors=True)
            partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError:
        logging.getLogger(__name__).info("the decoded arrays could not be kept in %s", place)


def _unasked(entry: logging.LogRecord) -> bool:
    """Drop the advice of TFDS to install a faster decoder."""
    return "OpenCV" not in entry.getMessage()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the hints of TFDS about other decoders, which do not concern the reader."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
