"""Pictures of operators."""

from typing import Any

import numpy as np
import pytest
from support.operators import SOBEL
from support.wrong import wrong

from neuralflow.labs import operators as op


def test_pictures():
    pytest.importorskip("matplotlib")

    right = op.plots.operator(np.asarray(SOBEL)).axes[1]
    assert right.get_title() == "8 ∂x + 2 ∂xyy"
    assert [t.get_text() for t in right.get_yticklabels()] == [
        "1",
        r"$\partial_y$",
        r"$\partial_y^2$",
    ]
    assert op.plots.operator(np.ones(5)).axes[1].get_yticks().size == 0
    bars: Any = (
        op.plots.shares({"net": {"a": op.Shares(0.5, 0.5, 0, 0), "b": op.Shares(0, 0, 0.25, 0.75)}})
        .axes[0]
        .patches
    )
    with pytest.raises(ValueError, match="must be given by name"):
        op.plots.shares({"net": {"a": wrong(np.ones(3))}})
    assert [bar.get_height() for bar in bars] == [0.5, 0, 0.5, 0, 0, 0.25, 0, 0.75]
