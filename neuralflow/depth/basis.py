"""Bases: functions of normalised depth s in [0, 1], cell by cell, and their exact matrices.

A basis cuts [0, 1] at its *knots* into *cells*. Inside a cell, a function is a polynomial in the
local coordinate s in [0, 1]. The polynomial is a sum of local shape functions. Its coefficients are
the few coefficients that are active in the cell, called the *window* of the cell. The exact mass
and stiffness matrices, refinement and projection follow from the local shape functions.

A coefficient of a piecewise-constant function is the value in a cell (*cell-centred*). A
coefficient of a piecewise-linear function is the value at a knot (*nodal*). The two kinds are never
converted silently. Coefficients of polynomials and splines are not values of the function.

A new basis is a subclass of `Basis` in this module.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError

Side = Literal["left", "right"]

# The Gauss points of a basis, and the terms of its recurrence in a program, are many by then.
_MOST_TERMS = 1024


def _knots(cells: PyTree) -> int | tuple[float, ...]:
    """Return a number of equal cells, or the knots of unequal cells, checked and hashable."""
    row = isinstance(cells, list | tuple | range)
    if not row and (isinstance(cells, str) or not np.ndim(cells)):
        checks.whole("cells (a number, or a sequence of knots)", cells, most=checks.MOST_STEPS)
        return int(cells)
    knots = np.asarray(checks.row("cells (a number, or a sequence of knots)", cells), float)
    if len(knots) < 2 or knots[0] != 0 or knots[-1] != 1 or not (np.diff(knots) > 0).all():
        raise InputError(
            f"cells given as knots must increase strictly from 0 to 1, got {cells!r}; "
            "divide depths by the length of the interval"
        )
    return tuple(knots.tolist())


def _gauss(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the Gauss-Legendre nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(points)
    return (x + 1) / 2, w / 2


def _take(coefficients: Array, index: np.ndarray) -> Array:
    """Return coefficients[index], without a gather where the index is a plain range.

    A range of all coefficients makes no copy. Every other range is a slice, whose transpose is
    cheap.
    """
    first, count = int(index[0]), len(index)
    if np.array_equal(index, np.arange(first, first + count)):
        return (
            coefficients if count == coefficients.shape[0] else coefficients[first : first + count]
        )
    return coefficients[index]


class Basis(abc.ABC):
    """A space of functions of normalised depth, defined by its knots and its local shape functions.

    A basis is a frozen dataclass of numbers, so a basis is hashable. Its shape functions are
    defined on one cell, in the local coordinate s in [0, 1]. The functions of this module build the
    matrices of values, derivatives, masses and projections from the shape functions.

    In cell k the coefficients k, k + 1, ... are active. There are as many active coefficients as
    shape functions.

    Attributes:
        cells: The number of equal cells, or the knots of unequal cells, from 0 to 1.
        smoothness: The number of continuous derivatives at the knots. 0 means that functions are
            continuous, -1 that functions jump.
        nodal: Whether the coefficients are the values at `nodes`.
        hierarchical: Whether a larger basis of the same kind begins with the functions of the
            smaller basis. The other functions of the larger basis are orthogonal to these.
    """

    cells: int | tuple[float, ...]
    smoothness: ClassVar[int]
    nodal: ClassVar[bool]
    hierarchical: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def degree(self) -> int:
        """The highest polynomial degree inside a cell."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of coefficients."""

    @property
    @abc.abstractmethod
    def nodes(self) -> np.ndarray:
        """The normalised depths `(size,)` whose values determine a function."""

    @abc.abstractmethod
    def shape(self, s: np.ndarray) -> np.ndarray:
        """Return the values of the local shape functions.

        Args:
            s: Local coordinates in [0, 1], of any shape.

        Returns:
            The values, with a new first axis of one entry for each shape function.
        """

    @abc.abstractmethod
    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Return the derivatives of the local shape functions with respect to normalised depth.

        Args:
            cell: The cell of each coordinate, integers of the shape of `s`.
            s: Local coordinates in [0, 1], of any shape.

        Returns:
            The derivatives, with a new first axis of one entry for each shape function.
        """

    @abc.abstractmethod
    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """Return the exact stiffness matrix S.

        For coefficients c, c^T S c is the integral over [0, 1] of the square of the derivative. The
        integral is taken cell by cell.

        Returns:
            The matrix `(size, size)`.

        Raises:
            InputError: The functions have jumps, so they have no H^1 seminorm.
        """

    @abc.abstractmethod
    def halved(self) -> Basis:
        """Return the basis of the same kind with about half as many cells or terms."""

    @abc.abstractmethod
    def refined(self, factor: int) -> Basis:
        """Return the basis of the same kind with `factor` times as many cells or terms.

        Every cell is cut into `factor` equal cells. The new basis contains the present basis.

        Args:
            factor: The number of parts of a cell.

        Raises:
            InputError: `factor` is less than one, or the new basis would have too many cells or
                terms.
            InputTypeError: `factor` is not a whole number.
        """

    @abc.abstractmethod
    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> Any:
        """Return the coefficients that are active in a cell, or in each of an array of cells.

        Args:
            coefficients: Coefficients `(size, ...)`.
            cell: One cell, or an array of cells. A NumPy array of consecutive cells is read without
                a gather.

        Returns:
            The window: an array, or a tuple of arrays with one entry for each shape function. An
            array of cells adds a leading axis to each array.
        """

    @abc.abstractmethod
    def combine(self, window: Any, s: Array) -> Array:
        """Return the value of a function at one point of a cell, from the window of the cell.

        Args:
            window: The window of one cell, as `window` returns it.
            s: The local coordinate in [0, 1] of the point.

        Returns:
            The value, of the shape of one coefficient.
        """

    def value(self, coefficients: Array, cell: int | Array | np.ndarray, s: Real) -> Array:
        """Return the value of a function at one point of a cell.

        Args:
            coefficients: The coefficients `(size, ...)` of the function.
            cell: The number of the cell, from 0.
            s: The local coordinate in [0, 1] of the point.

        Returns:
            The value, of the shape of one coefficient.

        Raises:
            InputError: There are not `size` coefficients, or `cell` is no cell of the basis, or
                `s` lies outside of [0, 1].
            InputTypeError: An argument is of the wrong kind.
        """
        self.check(coefficients)
        if not isinstance(cell, jax.Array | np.ndarray) or not np.ndim(cell):
            checks.number("cell", cell, least=0, most=self.count - 1)
        checks.number("s", s, least=0, most=1)
        return self.combine(self.window(coefficients, jnp.asarray(cell)), jnp.asarray(s))

    def check(self, coefficients: Array, name: str = "coefficients") -> None:
        """Refuse coefficients whose number is not that of the basis.

        Args:
            coefficients: The coefficients `(size, ...)`.
            name: What the message calls them.

        Raises:
            InputError: The first axis has not the length `size`.
            InputTypeError: `coefficients` is not an array of numbers.
        """
        checks.states(name, coefficients)
        if np.shape(coefficients)[:1] != (self.size,):
            raise InputError(
                f"{name} of {self} must have a first axis of {self.size}, got shape "
                f"{np.shape(coefficients)}"
            )

    @property
    def count(self) -> int:
        """The number of cells."""
        return self.cells if isinstance(self.cells, int) else len(self.cells) - 1

    @property
    def knots(self) -> np.ndarray:
        """The knots 0 = s_0 < ... < s_count = 1, float64 `(count + 1,)`."""
        if isinstance(self.cells, int):
            return np.arange(self.cells + 1) / self.cells
        return np.asarray(self.cells)


def _every_other(knots: np.ndarray) -> tuple[float, ...]:
    """Return every other knot and both ends.

    An odd number of cells has its last three cells joined. A single cell stays as it is.
    """
    odd = (len(knots) - 1) % 2
    return tuple(np.unique([0.0, *knots[: len(knots) - 2 * odd : 2], 1.0]).tolist())


def _cut(cells: int | tuple[float, ...], factor: int) -> int | tuple[float, ...]:
    """Return cells, each cut into a number of equal parts."""
    checks.whole("factor", factor, most=checks.MOST_STEPS)
    if isinstance(cells, int):
        return factor * cells
    marks = np.arange(factor * (len(cells) - 1) + 1) / factor
    return tuple(np.interp(marks, np.arange(len(cells)), cells).tolist())


@dataclass(frozen=True)
class PiecewiseConstant(Basis):
    """Functions with one value per cell: the weights of a stack of ordinary layers.

    The coefficients are cell-centred: coefficient k is the value in cell k. The functions jump at
    the knots.

    Args:
        cells: The number of equal cells, or the knots 0 = s_0 < ... < s_n = 1 of n unequal cells.

    Raises:
        InputError: `cells` is less than one or more than 2^24, or the knots do not increase
            strictly from 0 to 1.
        InputTypeError: `cells` is neither a whole number nor a sequence of knots.

    Example:
        >>> import neuralflow as nf
        >>> basis = nf.PiecewiseConstant(4)
        >>> basis.size
        4
        >>> basis.nodes.tolist()
        [0.125, 0.375, 0.625, 0.875]
    """

    cells: int | tuple[float, ...]
    smoothness: ClassVar[int] = -1
    nodal: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "cells", _knots(self.cells))

    @property
    def degree(self) -> int:
        """The highest polynomial degree inside a cell, 0."""
        return 0

    @property
    def size(self) -> int:
        """The number of coefficients, one per cell."""
        return self.count

    @property
    def nodes(self) -> np.ndarray:
        """The normalised depths whose values determine a function: the centres of the cells."""
        return (self.knots[:-1] + self.knots[1:]) / 2

    def shape(self, s: np.ndarray) -> np.ndarray:
        """Return the value of the one local shape function at `s`: ones in a new first axis."""
        return np.ones_like(s)[None]

    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Return the derivative of the one local shape function: zeros in a new first axis."""
        return np.zeros_like(s)[None]

    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """Refuse: functions with jumps have no derivative whose square has an integral.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "piecewise-constant functions have no H1 seminorm; "
            "use PiecewiseLinear on the same cells"
        )

    def halved(self) -> PiecewiseConstant:
        """Return the basis that joins every two neighbouring cells.

        An odd number of cells has its last three cells joined. A single cell stays as it is.
        """
        return PiecewiseConstant(_every_other(self.knots))

    def refined(self, factor: int) -> PiecewiseConstant:
        """Return the basis with every cell cut into `factor` equal cells."""
        return PiecewiseConstant(_cut(self.cells, factor))

    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> Array:
        """Return coefficients[cell], the one active coefficient of each cell."""
        return _take(coefficients, cell) if isinstance(cell, np.ndarray) else coefficients[cell]

    def combine(self, window: Any, s: Array) -> Array:
        """Return the value in one cell: the window itself, at every local coordinate `s`."""
        return window


@dataclass(frozen=True)
class PiecewiseLinear(Basis):
    """Continuous functions with one value per knot, linear in between.

    The coefficients are nodal: coefficient k is the value at knot k. The local coordinate s = 1 of
    a cell gives exactly the value at the next knot.

    Args:
        cells: The number of equal cells, or the knots 0 = s_0 < ... < s_n = 1 of n unequal cells.

    Raises:
        InputError: `cells` is less than one or more than 2^24, or the knots do not increase
            strictly from 0 to 1.
        InputTypeError: `cells` is neither a whole number nor a sequence of knots.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> basis = nf.PiecewiseLinear((0, 0.25, 1))
        >>> basis.size
        3
        >>> float(basis.value(jnp.array([0.0, 1.0, 3.0]), cell=1, s=0.5))
        2.0
    """

    cells: int | tuple[float, ...]
    smoothness: ClassVar[int] = 0
    nodal: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "cells", _knots(self.cells))

    @property
    def degree(self) -> int:
        """The highest polynomial degree inside a cell, 1."""
        return 1

    @property
    def size(self) -> int:
        """The number of coefficients, one per knot."""
        return self.count + 1

    @property
    def nodes(self) -> np.ndarray:
        """The normalised depths whose values determine a function: the knots."""
        return self.knots

    def shape(self, s: np.ndarray) -> np.ndarray:
        """Return the two local shape functions 1 - s and s, in a new first axis."""
        return np.stack([1 - s, s])

    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Return the derivatives -1/w and 1/w in a new first axis; w is the width of `cell`."""
        inverse = (1 / np.diff(self.knots))[cell]
        return np.stack([-inverse, inverse])

    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """Return the exact stiffness matrix, which is tridiagonal."""
        inverse = 1 / np.diff(self.knots)
        main = np.append(inverse, 0.0) + np.append(0.0, inverse)
        return np.diag(main) - np.diag(inverse, 1) - np.diag(inverse, -1)

    def halved(self) -> PiecewiseLinear:
        """Return the basis on every other knot and both ends.

        An odd number of cells has its last three cells joined. A single cell stays as it is.
        """
        return PiecewiseLinear(_every_other(self.knots))

    def refined(self, factor: int) -> PiecewiseLinear:
        """Return the basis with every cell cut into `factor` equal cells."""
        return PiecewiseLinear(_cut(self.cells, factor))

    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> tuple[Array, Array]:
        """Return the coefficients at the left and at the right knot of each cell."""
        if isinstance(cell, np.ndarray):
            return _take(coefficients, cell), _take(coefficients, cell + 1)
        return coefficients[cell], coefficients[cell + 1]

    def combine(self, window: Any, s: Array) -> Array:
        """Return the value (1 - s) left + s right at the local coordinate `s` of one cell."""
        left, right = window
        s = s.astype(jnp.real(left).dtype)
        return (1 - s) * left + s * right


@dataclass(frozen=True)
class Legendre(Basis):
    """Polynomials in normalised depth, as sums of Legendre polynomials P_k(2s - 1).

    The basis is spectral: one cell covers all of [0, 1]. The degree of the polynomials is less than
    `terms`. Coefficient k is the factor of P_k(2s - 1), not a value of the function.

    Args:
        terms: The number of Legendre polynomials, at least one.

    Raises:
        InputError: `terms` is less than one or more than 1024.
        InputTypeError: `terms` is not a whole number.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> basis = nf.Legendre(2)
        >>> float(basis.value(jnp.array([1.0, 2.0]), cell=0, s=0.75))  # 1 + 2 (2s - 1)
        2.0
    """

    terms: int
    cells: ClassVar[int] = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    smoothness: ClassVar[int] = 0
    nodal: ClassVar[bool] = False
    hierarchical: ClassVar[bool] = True

    def __post_init__(self):
        checks.whole("terms", self.terms, most=_MOST_TERMS)
        object.__setattr__(self, "terms", int(self.terms))

    @property
    def degree(self) -> int:
        """The highest polynomial degree, `terms - 1`."""
        return self.terms - 1

    @property
    def size(self) -> int:
        """The number of coefficients, `terms`."""
        return self.terms

    @property
    def nodes(self) -> np.ndarray:
        """The normalised depths whose values determine a function: the Gauss points."""
        return _gauss(self.terms)[0]

    def shape(self, s: np.ndarray) -> np.ndarray:
        """Return the Legendre polynomials P_k(2s - 1), with k in a new first axis."""
        return np.moveaxis(np.polynomial.legendre.legvander(2 * s - 1, self.degree), -1, 0)

    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Return the derivatives 2 P_k'(2s - 1), with k in a new first axis."""
        return 2 * np.polynomial.legendre.legval(
            2 * s - 1, np.polynomial.legendre.legder(np.eye(self.terms))
        )

    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """Return the exact stiffness matrix.

        Entry (j, k) is 2 m (m + 1) with m = min(j, k) where j + k is even, and zero elsewhere.
        """
        k = np.arange(self.terms)
        low = np.minimum(k[:, None], k)
        return np.where((k[:, None] + k) % 2 == 0, 2.0 * low * (low + 1), 0.0)

    def halved(self) -> Legendre:
        """Return the basis of the lower half of the terms, rounded up."""
        return Legendre((self.terms + 1) // 2)

    def refined(self, factor: int) -> Legendre:
        """Return the basis of `factor` times as many terms."""
        checks.whole("factor", factor, most=_MOST_TERMS)
        return Legendre(factor * self.terms)

    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> Array:
        """Return all coefficients, which are active in the one cell."""
        shape = np.shape(cell)
        return (
            jnp.broadcast_to(coefficients, (*shape, *coefficients.shape)) if shape else coefficients
        )

    def combine(self, window: Any, s: Array) -> Array:
        """Return the value at the local coordinate `s`, by the three-term recurrence."""
        z = 2 * s.astype(jnp.real(window).dtype) - 1
        values = [jnp.ones_like(z), z]
        for k in range(1, self.degree):
            values.append(((2 * k + 1) * z * values[k] - k * values[k - 1]) / (k + 1))
        return jnp.tensordot(
            jnp.stack(values[: self.terms]), window, axes=1, precision=jax.lax.Precision.HIGHEST
        )


@dataclass(frozen=True)
class CubicSpline(Basis):
    """Cubic splines on equal cells, twice continuously differentiable.

    The basis functions are the `cells + 3` cardinal B-splines that reach into [0, 1]. The
    coefficients are the factors of these B-splines, not values of the function. The values at
    `nodes` determine a function.

    Args:
        cells: The number of equal cells.

    Raises:
        InputError: `cells` is less than one or more than 2^24.
        InputTypeError: `cells` is not a whole number.
    """

    cells: int | tuple[float, ...]
    smoothness: ClassVar[int] = 2
    nodal: ClassVar[bool] = False

    def __post_init__(self):
        checks.whole("cells", self.cells, most=checks.MOST_STEPS)
        object.__setattr__(self, "cells", _knots(self.cells))

    @property
    def degree(self) -> int:
        """The highest polynomial degree inside a cell, 3."""
        return 3

    @property
    def size(self) -> int:
        """The number of coefficients, one per B-spline."""
        return self.count + 3

    @property
    def nodes(self) -> np.ndarray:
        """The normalised depths whose values determine a function.

        The nodes are the knots and the centres of the first and the last cell. A single cell has
        the nodes 0, 1/3, 2/3 and 1.
        """
        ends = np.array([0.5, self.count - 0.5] if self.count > 1 else [1 / 3, 2 / 3]) / self.count
        return np.sort(np.concatenate([self.knots, ends]))

    def shape(self, s: np.ndarray) -> np.ndarray:
        """Return the four local pieces of B-splines at `s`, in a new first axis."""
        return (
            np.stack(
                [(1 - s) ** 3, 3 * s**3 - 6 * s**2 + 4, -3 * s**3 + 3 * s**2 + 3 * s + 1, s**3]
            )
            / 6
        )

    def slope(self, cell: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Return the derivatives of the four local pieces at `s`, in a new first axis."""
        return (
            np.stack([-((1 - s) ** 2), 3 * s**2 - 4 * s, -3 * s**2 + 2 * s + 1, s**2])
            * self.count
            / 2
        )

    def stiffness(self) -> Float[np.ndarray, "size size"]:
        """Return the exact stiffness matrix, by Gauss quadrature."""
        nodes, weights = _gauss(3)
        slopes = derivative(self, ((np.arange(self.count)[:, None] + nodes) / self.count).ravel())
        return slopes.T @ (np.tile(weights / self.count, self.count)[:, None] * slopes)

    def halved(self) -> CubicSpline:
        """Return the splines on half as many equal cells, rounded up."""
        return CubicSpline((self.count + 1) // 2)

    def refined(self, factor: int) -> CubicSpline:
        """Return the splines on cells that are each cut into `factor` equal cells."""
        return CubicSpline(_cut(self.cells, factor))

    def window(self, coefficients: Array, cell: np.ndarray | Array | int) -> tuple[Array, ...]:
        """Return the four coefficients that are active in each cell."""
        if isinstance(cell, np.ndarray):
            return tuple(_take(coefficients, cell + k) for k in range(4))
        return tuple(coefficients[cell + k] for k in range(4))

    def combine(self, window: Any, s: Array) -> Array:
        """Return the value at the local coordinate `s` of one cell."""
        s = s.astype(jnp.real(window[0]).dtype)
        shapes = ((1 - s) ** 3, (3 * s - 6) * s**2 + 4, ((3 - 3 * s) * s + 3) * s + 1, s**3)
        total = sum(shape * part for shape, part in zip(shapes[1:], window[1:], strict=True))
        return (shapes[0] * window[0] + total) / 6


def _columns(basis: Basis, cell: int) -> slice:
    """Return which coefficients are active in a cell.

    The first active coefficient has the index of the cell. There are as many active coefficients as
    shape functions.
    """
    width = basis.size - basis.count + 1
    return slice(cell, cell + width)


def locate(basis: Basis, depth: np.ndarray, side: Side = "right") -> tuple[np.ndarray, np.ndarray]:
    """Return the cell of each normalised depth, and the local coordinate inside the cell.

    Args:
        basis: The basis whose cells are meant.
        depth: Normalised depths in [0, 1], of any shape.
        side: Which cell a knot belongs to. "right" is the cell that begins at the knot, "left" is
            the cell that ends there.

    Returns:
        The cells (integers) and the local coordinates in [0, 1] (float64), each of the shape of
        `depth`.

    Raises:
        InputError: A depth lies outside [0, 1].
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
    """Return the cell of a normalised depth and the local coordinate, inside a trace.

    A knot belongs to the cell that begins there, as in `locate(side="right")`. A depth outside of
    [0, 1] is moved to the nearer end.

    Args:
        basis: The basis whose cells are meant.
        depth: Normalised depths.
        knots: The knots of `basis`, `(count + 1,)`. In a solve, `knots` is the same array that the
            step controller has.

    Returns:
        The cells and the local coordinates in [0, 1], each of the shape of `depth`.
    """
    cell = jnp.clip(jnp.searchsorted(knots, depth, side="right") - 1, 0, basis.count - 1)
    s = (depth - knots[cell]) / (knots[cell + 1] - knots[cell])
    return cell, jnp.clip(s, 0, 1)


def evaluation(
    basis: Basis, depth: Float[np.ndarray, "*depths"] | float, side: Side = "right"
) -> Float[np.ndarray, "depths size"]:
    """Return the matrix E from coefficients to values.

    (E c)_i is the value at depth_i of the function with the coefficients c.

    Args:
        basis: The basis of the function.
        depth: Normalised depths in [0, 1], `(depths,)` or one number.
        side: Which one-sided limit to take at a knot.

    Returns:
        The matrix `(depths, size)`.

    Raises:
        InputError: A depth lies outside [0, 1].
    """
    cell, s = locate(basis, np.atleast_1d(depth), side)
    return _scattered(basis, cell, basis.shape(s))


def derivative(
    basis: Basis, depth: Float[np.ndarray, "*depths"] | float, side: Side = "right"
) -> Float[np.ndarray, "depths size"]:
    """Return the matrix D from coefficients to derivatives in normalised depth.

    (D c)_i is the derivative at depth_i of the function with the coefficients c.

    Args:
        basis: The basis of the function.
        depth: Normalised depths in [0, 1], `(depths,)` or one number.
        side: Which one-sided limit to take at a knot.

    Returns:
        The matrix `(depths, size)`.

    Raises:
        InputError: A depth lies outside [0, 1].
    """
    cell, s = locate(basis, np.atleast_1d(depth), side)
    return _scattered(basis, cell, basis.slope(cell, s))


def _scattered(basis: Basis, cell: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Put numbers of the local shape functions `(functions, depths)` into the columns of a matrix.

    Each number goes to the column of the coefficient that belongs to its shape function.
    """
    matrix = np.zeros((len(cell), basis.size))
    for row, c in enumerate(cell):
        matrix[row, _columns(basis, int(c))] = local[:, row]
    return matrix


def interpolation(basis: Basis) -> Float[np.ndarray, "size size"]:
    """Return the matrix from the values at `basis.nodes` to the coefficients.

    The matrix is the identity where the coefficients are the values at the nodes.

    Args:
        basis: The basis of the function.

    Returns:
        The matrix `(size, size)`.
    """
    return np.eye(basis.size) if basis.nodal else np.linalg.inv(evaluation(basis, basis.nodes))


def _gram(rows: Basis, columns: Basis) -> np.ndarray:
    """Return the exact integrals of all products of a function of `rows` and one of `columns`.

    The integrals are computed by Gauss quadrature on the cells that the knots of both bases cut.
    """
    knots = np.union1d(rows.knots, columns.knots)
    nodes, weights = _gauss((rows.degree + columns.degree) // 2 + 1)
    widths = np.diff(knots)
    depth = np.minimum((knots[:-1, None] + widths[:, None] * nodes).ravel(), 1.0)
    weight = (widths[:, None] * weights).ravel()
    return evaluation(rows, depth).T @ (weight[:, None] * evaluation(columns, depth))


def mass(basis: Basis) -> Float[np.ndarray, "size size"]:
    """Return the exact mass matrix M.

    For coefficients c, c^T M c is the integral over [0, 1] of the square of the function.

    Args:
        basis: The basis of the function.

    Returns:
        The matrix `(size, size)`.
    """
    return _gram(basis, basis)


def sobolev_gram(basis: Basis, tau: float, scale: float = 1.0) -> Float[np.ndarray, "size size"]:
    """Return the Gram matrix G of a penalty on functions of depth.

    For the function p with the coefficients c, c^T G c is scale * int |p'|^2 ds + tau |p(0)|^2. The
    integral runs over normalised depth from 0 to 1.

    Args:
        basis: The basis of the function.
        tau: The factor of |p(0)|^2.
        scale: The factor of the integral.

    Returns:
        The matrix `(size, size)`.

    Raises:
        InputError: The functions have jumps, so p' has no integrable square.
    """
    start = evaluation(basis, np.zeros(1))[0]
    return scale * basis.stiffness() + tau * np.outer(start, start)


def contains(finer: Basis, coarser: Basis) -> bool:
    """Return whether every function of `coarser` is a function of `finer`.

    Args:
        finer: The basis that may contain the other.
        coarser: The basis that may be contained.
    """
    if coarser.count == 1 and finer.degree >= coarser.degree:
        return True
    nested = np.isin(np.round(coarser.knots, 12), np.round(finer.knots, 12)).all()
    return bool(
        nested and finer.degree >= coarser.degree and finer.smoothness <= coarser.smoothness
    )


def refinement(coarser: Basis, finer: Basis) -> Float[np.ndarray, "finer coarser"]:
    """Return the matrix of the exact embedding of one basis into a finer basis.

    Args:
        coarser: The basis of the given coefficients.
        finer: The basis of the wanted coefficients.

    Returns:
        The matrix `(finer.size, coarser.size)` from coefficients to coefficients of the same
        function.

    Raises:
        InputError: `finer` does not contain `coarser`.
    """
    if not contains(finer, coarser):
        raise InputError(
            f"{finer} does not contain {coarser}, so refining would change the weights; "
            "use a multiple of the cells, or project() for the L2-nearest function"
        )
    if _cut_short(coarser, finer):
        return np.eye(finer.size, coarser.size)
    return interpolation(finer) @ evaluation(coarser, finer.nodes)


def _cut_short(one: Basis, other: Basis) -> bool:
    """Return whether the smaller of two bases keeps the first coefficients of the larger basis."""
    return type(one) is type(other) and one.hierarchical


def projection(source: Basis, target: Basis) -> Float[np.ndarray, "target source"]:
    """Return the matrix of the L2 projection onto another basis.

    The projection is the exact embedding where `target` contains `source`.

    Args:
        source: The basis of the given coefficients.
        target: The basis of the wanted coefficients.

    Returns:
        The matrix `(target.size, source.size)` from coefficients to coefficients of the L2-nearest
        function.
    """
    if contains(target, source):
        return refinement(source, target)
    if _cut_short(source, target):
        return np.eye(target.size, source.size)
    return np.linalg.solve(mass(target), _gram(target, source))
