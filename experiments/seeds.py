"""What a few seeds say."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats


def summary(values: Any) -> dict[str, Any]:
    """Mean and 95% interval over seeds, by Student's distribution."""
    values = np.asarray(values, float)
    spread = stats.sem(values) if len(values) > 1 else np.nan
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), spread) if np.ptp(values) else (values[0], values[0])
    return {"mean": float(values.mean()), "interval": [float(low), float(high)]}
