"""Data sets as dicts of NumPy arrays.

`generated` makes sets in the plane, `arrays` reads scikit-learn's digits and files, `tfds` reads
TensorFlow data sets. `stream` reads sets that do not fit in memory, `augment` changes batches while
training. Only `prepare` downloads anything.
"""

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
