"""Names of the types that many signatures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Array

# One real number: a depth time, a step, a coefficient.
Real: TypeAlias = float | Array | np.ndarray

# Several real numbers in a row, such as depth times.
Reals: TypeAlias = Array | np.ndarray | Sequence[float]
