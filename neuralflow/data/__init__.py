"""Data sets as dicts of NumPy arrays.

`moons`, `spirals` and others make sets in the plane. `digits` and `digits_pair` read scikit-learn's
digits, `from_file` reads files. `load` and `source` read TensorFlow data sets, and `prepare`
downloads them; nothing else downloads anything. `Stream` reads sets that do not fit in memory.
`augment_images` changes batches while training.
"""

# `generated` makes sets by formula, `arrays` reads scikit-learn's digits and files, `tfds` reads
# TensorFlow data sets, `stream` reads ahead, `augment` changes batches.

from neuralflow.data.arrays import (
    Data,
    digits,
    digits_pair,
    from_file,
)
from neuralflow.data.augment import images as augment_images
from neuralflow.data.generated import (
    annuli,
    checkerboard,
    circles,
    gaussians,
    moons,
    spirals,
)
from neuralflow.data.stream import Stream
from neuralflow.data.tfds import (
    DataMissing,
    load,
    prepare,
    source,
)

__all__ = [
    "Data",
    "DataMissing",
    "Stream",
    "annuli",
    "augment_images",
    "checkerboard",
    "circles",
    "digits",
    "digits_pair",
    "from_file",
    "gaussians",
    "load",
    "moons",
    "prepare",
    "source",
    "spirals",
]
__docformat__ = "google"
