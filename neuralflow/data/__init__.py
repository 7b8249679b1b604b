"""Data sets as dicts of NumPy arrays.

`generated` makes sets in the plane, `arrays` reads scikit-learn's digits and files, `tfds` reads
TensorFlow data sets. `stream` reads sets that do not fit in memory, `augment` changes batches while
training. Only `prepare` downloads anything.
"""

from neuralflow.data.arrays import (
    Data as Data,
    digits as digits,
    digits_pair as digits_pair,
    from_file as from_file,
)
from neuralflow.data.augment import images as augment_images
from neuralflow.data.generated import (
    annuli as annuli,
    checkerboard as checkerboard,
    circles as circles,
    gaussians as gaussians,
    moons as moons,
    spirals as spirals,
)
from neuralflow.data.stream import Stream as Stream
from neuralflow.data.tfds import (
    DataMissing as DataMissing,
    load as load,
    prepare as prepare,
    source as source,
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
