"""Functions of normalised depth s in [0, 1], cell by cell. A new basis is a subclass of `Basis` here.

A basis cuts [0, 1] at its *knots* into *cells*. Inside a cell a function is a polynomial in the local
coordinate s in [0, 1], built from the few coefficients that are active there (its *window*). Everything else,
exact mass and stiffness matrices, refinement and projection, follows from those local shape functions.

A piecewise-constant coefficient is the value in a cell (*cell-centred*); a piecewise-linear one is the value at a
knot (*nodal*). The two are never converted silently. Coefficients of polynomials and splines are no values at all.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neuralflow.checks import InputError, InputTypeError

Side = Literal["left", "right"]


def _knots(cells: Any) -> int | tuple[float, ...]:
    """A number of equal cells, or the knots of unequal ones, checked and hashable."""
    if isinstance(cells, (int, np.integer)) and not isinstance(cells, bool):
        if cells < 1:
            raise InputError(f"a basis needs at least one cell, got {cells}; give cells >= 1")
        return int(cells)
    if not isinstance(cells, (Sequence, np.ndarray)) or isinstance(cells, str):
        raise InputTypeError(f"cells is a whole number or a sequence of knots, got {cells!r}")
    knots = np.asarray(cells, float)
    if (
        knots.ndim != 1
        or len(knots) < 2
        or knots[0] != 0
        or knots[-1] != 1
        or not (np.diff(knots) > 0).all()
    ):
        raise InputError(
            f"knots must increase strictly from 0 to 1, got {cells!r}; divide depths by the length of the interval"
        )
    return tuple(knots.tolist())


def _gauss(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(points)
    return (x + 1) / 2, w / 2


def _take(coefficients: Array, index: np.ndarray) -> Array:
    """coefficients[index] without a gather where the index is a plain range (no copy, and a cheap transpose)."""
    first, count = int(index[0]), len(index)
    if np.array_equal(index, np.arange(first, first + count)):
        return (
            coefficients if count == coefficients.shape[0] else coefficients[first : first + count]
        )
    return coefficients[index]


class Basis(abc.ABC):
    """A space of functions of depth: its knots, its local shape functions, and all that follows from them.

    A basis is a frozen dataclass of numbers, so that it is hashable. Shape functions are told on one cell, in its local
    coordinate s in [0, 1]; matrices of values, derivatives, masses and projections follow (functions of this module). In cell k
    the coefficients k, k + 1, ... are active, as many as there are shape functions.
    """

    cells: int | tuple[float, ...]
    smoothness: ClassVar[int]
    """Continuous derivatives at knots; -1 for jumps."""
    nodal: ClassVar[bool]
    """Whether the coefficients are the values at `nodes`."""
    hierarchical: ClassVar[bool] = False
    """Whether a larger basis of this kind has the same first functions, orthogonal to its others."""

    @property
    @abc.abstractmethod
    def degree(self) -> int:
        """Highest polynomial degree inside a cell."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of coefficients."""

    @property
    @abc.abstractmethod
    def nodes(self) -> np.ndarray:
        """The depths whose values determine a function."""

    @abc.abstractmethod
    def shape(self, s: np.ndarray) -> np.ndarray:
        """Local shape functions at s, in a new first axis."""

    @abc.abstractmethod
    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Derivatives in depth of the local shape functions of a cell at s, in a new first axis."""

    @abc.abstractmethod
    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """Exact stiffness matrix: c^T S c is the integral of the derivative's square, cell by cell.

        Raises ValueError for functions with jumps, which have no H^1 seminorm.
        """

    @abc.abstractmethod
    def halved(self) -> Basis:
        """The basis of half as many cells or terms: two neighbouring ones together, three where the number is odd."""

    @abc.abstractmethod
    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> Any:
        """The coefficients that are active in a cell, or in each of an array of cells."""

    @abc.abstractmethod
    def combine(self, window: Any, s: Array) -> Array:
        """The value at the local coordinate s of one cell, from the window of that cell."""

    def value(self, coefficients: Array, cell: Any, s: Any) -> Array:
        """The value at the local coordinate s of a cell."""
        return self.combine(self.window(coefficients, jnp.asarray(cell)), jnp.asarray(s))

    @property
    def count(self) -> int:
        """Number of cells."""
        return self.cells if isinstance(self.cells, int) else len(self.cells) - 1

    @property
    def knots(self) -> np.ndarray:
        """The knots 0 = s_0 < ... < s_cells = 1, float64."""
        if isinstance(self.cells, int):
            return np.arange(self.cells + 1) / self.cells
        return np.asarray(self.cells)


def _every_other(knots: np.ndarray) -> tuple[float, ...]:
    """Every other knot, and both ends."""
    odd = (len(knots) - 1) % 2
    return tuple(np.unique([0.0, *knots[: len(knots) - 2 * odd : 2], 1.0]).tolist())


@dataclass(frozen=True)
class PiecewiseConstant(Basis):
    """One value per cell: a stack of ordinary layers. Coefficients are cell-centred; jumps at the knots.

    `cells`: the number of equal cells, or the knots 0 = s_0 < ... < s_cells = 1.
    """

    cells: int | tuple[float, ...]
    smoothness: ClassVar[int] = -1
    nodal: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "cells", _knots(self.cells))

    @property
    def degree(self) -> int:
        """Highest polynomial degree: 0."""
        return 0

    @property
    def size(self) -> int:
        """Number of coefficients: one per cell."""
        return self.count

    @property
    def nodes(self) -> np.ndarray:
        """The depths whose values determine a function: the centres of the cells."""
        return (self.knots[:-1] + self.knots[1:]) / 2

    def shape(self, s: np.ndarray) -> np.ndarray:
        """Local shape functions at s, in a new first axis."""
        return np.ones_like(s)[None]

    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Derivatives in depth of the local shape functions: zeros."""
        return np.zeros_like(s)[None]

    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """ValueError: functions with jumps have no derivative whose square has an integral."""
        raise InputError(
            "piecewise-constant functions have no H1 seminorm; use PiecewiseLinear on the same cells"
        )

    def halved(self) -> PiecewiseConstant:
        """Every two neighbouring cells as one."""
        return PiecewiseConstant(_every_other(self.knots))

    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> Array:
        """The coefficients active in each of the cells."""
        return _take(coefficients, cell) if isinstance(cell, np.ndarray) else coefficients[cell]

    def combine(self, window: Any, s: Array) -> Array:
        """The value at the local coordinate s of one cell."""
        return window


@dataclass(frozen=True)
class PiecewiseLinear(Basis):
    """One value per knot, linear in between. Coefficients are nodal; s = 1 in a cell is exactly the next node.

    `cells`: the number of equal cells, or the knots 0 = s_0 < ... < s_cells = 1.
    """

    cells: int | tuple[float, ...]
    smoothness: ClassVar[int] = 0
    nodal: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "cells", _knots(self.cells))

    @property
    def degree(self) -> int:
        """Highest polynomial degree: 1."""
        return 1

    @property
    def size(self) -> int:
        """Number of coefficients: one per knot."""
        return self.count + 1

    @property
    def nodes(self) -> np.ndarray:
        """The depths whose values determine a function: the knots."""
        return self.knots

    def shape(self, s: np.ndarray) -> np.ndarray:
        """Local shape functions at s, in a new first axis."""
        return np.stack([1 - s, s])

    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Derivatives in depth of the local shape functions of a cell at s, in a new first axis."""
        inverse = (1 / np.diff(self.knots))[cell]
        return np.stack([-inverse, inverse])

    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """Exact stiffness matrix, tridiagonal."""
        inverse = 1 / np.diff(self.knots)
        main = np.append(inverse, 0.0) + np.append(0.0, inverse)
        return np.diag(main) - np.diag(inverse, 1) - np.diag(inverse, -1)

    def halved(self) -> PiecewiseLinear:
        """Every other knot."""
        return PiecewiseLinear(_every_other(self.knots))

    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> tuple[Array, Array]:
        """The coefficients active in each of the cells."""
        if isinstance(cell, np.ndarray):
            return _take(coefficients, cell), _take(coefficients, cell + 1)
        return coefficients[cell], coefficients[cell + 1]

    def combine(self, window: Any, s: Array) -> Array:
        """The value at the local coordinate s of one cell."""
        left, right = window
        s = s.astype(jnp.real(left).dtype)
        return (1 - s) * left + s * right


@dataclass(frozen=True)
class Legendre(Basis):
    """Polynomials of degree < `terms` in depth, in Legendre polynomials P_k(2s - 1): a spectral basis, one cell."""

    terms: int
    cells: ClassVar[int] = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    smoothness: ClassVar[int] = 0
    nodal: ClassVar[bool] = False
    hierarchical: ClassVar[bool] = True

    def __post_init__(self):
        if (
            not isinstance(self.terms, (int, np.integer))
            or isinstance(self.terms, bool)
            or self.terms < 1
        ):
            raise InputError(
                f"a Legendre basis needs at least one term, got {self.terms!r}; give terms >= 1"
            )
        object.__setattr__(self, "terms", int(self.terms))

    @property
    def degree(self) -> int:
        """Highest polynomial degree."""
        return self.terms - 1

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return self.terms

    @property
    def nodes(self) -> np.ndarray:
        """The depths whose values determine a function: the Gauss points."""
        return _gauss(self.terms)[0]

    def shape(self, s: np.ndarray) -> np.ndarray:
        """Local shape functions at s, in a new first axis."""
        return np.moveaxis(np.polynomial.legendre.legvander(2 * s - 1, self.degree), -1, 0)

    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Derivatives in depth of the local shape functions at s, in a new first axis."""
        return 2 * np.polynomial.legendre.legval(
            2 * s - 1, np.polynomial.legendre.legder(np.eye(self.terms))
        )

    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """Exact stiffness matrix: 2 m (m + 1), m = min(j, k), where j + k is even, else zero."""
        k = np.arange(self.terms)
        low = np.minimum(k[:, None], k)
        return np.where((k[:, None] + k) % 2 == 0, 2.0 * low * (low + 1), 0.0)

    def halved(self) -> Legendre:
        """The lower half of the terms."""
        return Legendre((self.terms + 1) // 2)

    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> Array:
        """The coefficients active in each of the cells: all of them."""
        shape = np.shape(cell)
        return (
            jnp.broadcast_to(coefficients, (*shape, *coefficients.shape)) if shape else coefficients
        )

    def combine(self, window: Any, s: Array) -> Array:
        """The value at the local coordinate s, by the three-term recurrence."""
        z = 2 * s.astype(jnp.real(window).dtype) - 1
        values = [jnp.ones_like(z), z]
        for k in range(1, self.degree):
            values.append(((2 * k + 1) * z * values[k] - k * values[k - 1]) / (k + 1))
        return jnp.tensordot(
            jnp.stack(values[: self.terms]), window, axes=1, precision=jax.lax.Precision.HIGHEST
        )


@dataclass(frozen=True)
class CubicSpline(Basis):
    """Cubic splines on equal cells, twice continuously differentiable, in the cardinal B-splines that reach into [0, 1].

    `cells`: the number of equal cells. The `cells + 3` coefficients are weights of B-splines, not values: a function is
    determined by its values at `nodes`.
    """

    cells: int
    smoothness: ClassVar[int] = 2
    nodal: ClassVar[bool] = False

    def __post_init__(self):
        if not isinstance(self.cells, (int, np.integer)) or isinstance(self.cells, bool):
            raise InputTypeError(
                f"a cubic spline takes a number of equal cells, got {self.cells!r}"
            )
        object.__setattr__(self, "cells", _knots(self.cells))

    @property
    def degree(self) -> int:
        """Highest polynomial degree: 3."""
        return 3

    @property
    def size(self) -> int:
        """Number of coefficients: one per B-spline."""
        return self.count + 3

    @property
    def nodes(self) -> np.ndarray:
        """The depths whose values determine a function: the knots, and the centres of the first and the last cell."""
        ends = np.array([0.5, self.count - 0.5] if self.count > 1 else [1 / 3, 2 / 3]) / self.count
        return np.sort(np.concatenate([self.knots, ends]))

    def shape(self, s: np.ndarray) -> np.ndarray:
        """Local shape functions at s, in a new first axis."""
        return (
            np.stack(
                [(1 - s) ** 3, 3 * s**3 - 6 * s**2 + 4, -3 * s**3 + 3 * s**2 + 3 * s + 1, s**3]
            )
            / 6
        )

    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Derivatives in depth of the local shape functions of a cell at s, in a new first axis."""
        return (
            np.stack([-((1 - s) ** 2), 3 * s**2 - 4 * s, -3 * s**2 + 2 * s + 1, s**2])
            * self.count
            / 2
        )

    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """Exact stiffness matrix, by Gauss quadrature."""
        nodes, weights = _gauss(3)
        slopes = derivative(self, ((np.arange(self.count)[:, None] + nodes) / self.count).ravel())
        return slopes.T @ (np.tile(weights / self.count, self.count)[:, None] * slopes)

    def halved(self) -> CubicSpline:
        """Half as many equal cells."""
        return CubicSpline((self.count + 1) // 2)

    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> tuple[Array, ...]:
        """The coefficients active in each of the cells."""
        if isinstance(cell, np.ndarray):
            return tuple(_take(coefficients, cell + k) for k in range(4))
        return tuple(coefficients[cell + k] for k in range(4))

    def combine(self, window: Any, s: Array) -> Array:
        """The value at the local coordinate s of one cell."""
        s = s.astype(jnp.real(window[0]).dtype)
        shapes = ((1 - s) ** 3, (3 * s - 6) * s**2 + 4, ((3 - 3 * s) * s + 3) * s + 1, s**3)
        total = sum(shape * part for shape, part in zip(shapes[1:], window[1:], strict=True))
        return (shapes[0] * window[0] + total) / 6


def _columns(basis: Basis, cell: int) -> slice:
    """The coefficients active in a cell: as many, from the cell's own index on, as there are shape functions."""
    width = basis.size - basis.count + 1
    return slice(cell, cell + width)


def locate(basis: Basis, depth: np.ndarray, side: Side = "right") -> tuple[np.ndarray, np.ndarray]:
    """The cell of each depth in [0, 1] and the local coordinate inside it.

    At a knot `side` names the cell: "right" the one that begins there, "left" the one that ends there.
    """
    depth = np.asarray(depth, float)
    if not ((depth >= 0) & (depth <= 1)).all():
        raise InputError(
            f"a depth must lie in [0, 1], got {depth}; normalise it as (t - t0) / (t1 - t0)"
        )
    knots = basis.knots
    cell = np.clip(np.searchsorted(knots, depth, side) - 1, 0, basis.count - 1)
    return cell, (depth - knots[cell]) / (knots[cell + 1] - knots[cell])


def locate_traced(basis: Basis, depth: Array, knots: Array) -> tuple[Array, Array]:
    """`locate(side="right")` inside a trace, against the same `knots` array that the step controller was given."""
    cell = jnp.clip(jnp.searchsorted(knots, depth, side="right") - 1, 0, basis.count - 1)
    s = (depth - knots[cell]) / (knots[cell + 1] - knots[cell])
    return cell, jnp.clip(s, 0, 1)


def evaluation(
    basis: Basis, depth: Float[np.ndarray, "*depths"] | float, side: Side = "right"
) -> Float[np.ndarray, "depths size"]:
    """Matrix E with (E c)_i the value at depth_i of the function with coefficients c, one-sided at knots."""
    cell, s = locate(basis, np.atleast_1d(depth), side)
    return _scattered(basis, cell, basis.shape(s))


def derivative(
    basis: Basis, depth: Float[np.ndarray, "*depths"] | float, side: Side = "right"
) -> Float[np.ndarray, "depths size"]:
    """Matrix D with (D c)_i the derivative at depth_i of the function with coefficients c, one-sided at knots."""
    cell, s = locate(basis, np.atleast_1d(depth), side)
    return _scattered(basis, cell, basis.slope(cell, s))


def _scattered(basis: Basis, cell: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Numbers of the local shape functions (functions, depths) in the columns of their coefficients."""
    matrix = np.zeros((len(cell), basis.size))
    for row, c in enumerate(cell):
        matrix[row, _columns(basis, int(c))] = local[:, row]
    return matrix


def interpolation(basis: Basis) -> Float[np.ndarray, "size size"]:
    """Matrix from the values at `basis.nodes` to the coefficients; the identity where coefficients are such values."""
    return np.eye(basis.size) if basis.nodal else np.linalg.inv(evaluation(basis, basis.nodes))


def _gram(rows: Basis, columns: Basis) -> np.ndarray:
    """The exact integrals of products of two bases' functions: Gauss quadrature on the cells of both."""
    knots = np.union1d(rows.knots, columns.knots)
    nodes, weights = _gauss((rows.degree + columns.degree) // 2 + 1)
    widths = np.diff(knots)
    depth = np.minimum((knots[:-1, None] + widths[:, None] * nodes).ravel(), 1.0)
    weight = (widths[:, None] * weights).ravel()
    return evaluation(rows, depth).T @ (weight[:, None] * evaluation(columns, depth))


def mass(basis: Basis) -> Float[np.ndarray, "size size"]:
    """Exact mass matrix: c^T M c is the integral of the function's square over [0, 1]."""
    return _gram(basis, basis)


def sobolev_gram(basis: Basis, tau: float, scale: float = 1.0) -> Float[np.ndarray, "size size"]:
    """Gram matrix of the penalty in depth: c^T G c is scale * int |p'|^2 ds + tau |p(0)|^2 for the function p with coefficients c."""
    start = evaluation(basis, np.zeros(1))[0]
    return scale * basis.stiffness() + tau * np.outer(start, start)


def contains(finer: Basis, coarser: Basis) -> bool:
    """Whether every function of `coarser` is a function of `finer`."""
    if coarser.count == 1 and finer.degree >= coarser.degree:
        return True
    nested = np.isin(np.round(coarser.knots, 12), np.round(finer.knots, 12)).all()
    return bool(
        nested and finer.degree >= coarser.degree and finer.smoothness <= coarser.smoothness
    )


def refinement(coarser: Basis, finer: Basis) -> Float[np.ndarray, "finer coarser"]:
    """Matrix of the exact embedding of `coarser` into `finer`; ValueError where `finer` does not contain it."""
    if not contains(finer, coarser):
        raise InputError(
            f"{finer} does not contain {coarser}, so refining would change the weights; use a multiple of the cells, "
            "or project() for the L2-nearest function"
        )
    if _cut_short(coarser, finer):
        return np.eye(finer.size, coarser.size)
    return interpolation(finer) @ evaluation(coarser, finer.nodes)


def _cut_short(one: Basis, other: Basis) -> bool:
    """Whether the coefficients of the smaller of two bases are the first ones of the larger."""
    return type(one) is type(other) and one.hierarchical


def projection(source: Basis, target: Basis) -> Float[np.ndarray, "target source"]:
    """Matrix of the L2 projection onto `target`; the exact embedding where `target` contains `source`."""
    if contains(target, source):
        return refinement(source, target)
    if _cut_short(source, target):
        return np.eye(target.size, source.size)
    return np.linalg.solve(mass(target), _gram(target, source))
