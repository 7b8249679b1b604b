"""The two classical four-stage Runge-Kutta schemes, which diffrax lacks, as tableaus."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from diffrax import AbstractERK, ButcherTableau, ThirdOrderHermitePolynomialInterpolation

# Neither scheme has an embedded error estimate: zeros here, and Adaptive refuses them.
_NO_ERROR = np.zeros(4)


class RK4(AbstractERK):
    """The classical Runge-Kutta scheme: order 4, 4 stages (Kutta 1901). For fixed grids: no error estimate."""

    tableau: ClassVar[ButcherTableau] = ButcherTableau(
        c=np.array([1 / 2, 1 / 2, 1.0]),
        a_lower=(np.array([1 / 2]), np.array([0.0, 1 / 2]), np.array([0.0, 0.0, 1.0])),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=_NO_ERROR,
    )
    interpolation_cls: ClassVar[Callable[..., ThirdOrderHermitePolynomialInterpolation]] = (
        ThirdOrderHermitePolynomialInterpolation.from_k
    )

    def order(self, terms):
        return 4


class ThreeEighths(AbstractERK):
    """Kutta's 3/8 rule: order 4, 4 stages (Kutta 1901). For fixed grids: no error estimate."""

    tableau: ClassVar[ButcherTableau] = ButcherTableau(
        c=np.array([1 / 3, 2 / 3, 1.0]),
        a_lower=(np.array([1 / 3]), np.array([-1 / 3, 1.0]), np.array([1.0, -1.0, 1.0])),
        b_sol=np.array([1 / 8, 3 / 8, 3 / 8, 1 / 8]),
        b_error=_NO_ERROR,
    )
    interpolation_cls: ClassVar[Callable[..., ThirdOrderHermitePolynomialInterpolation]] = (
        ThirdOrderHermitePolynomialInterpolation.from_k
    )

    def order(self, terms):
        return 4
