"""Problems: data, a layer whose weights vary with depth, a readout, a loss, and a penalty.

`objective` turns a problem into the function that is minimised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from neuralflow.checks import InputError
from neuralflow.depth.basis import Basis, mass, sobolev_gram

Penalty = Callable[[Basis], np.ndarray]
"""A penalty of one weight: the Gram matrix G on a basis. Coefficients c cost c^T G c."""


@dataclass(frozen=True)
class Sobolev:
    """The paper's penalty int |p'|^2 + tau |p(0)|^2 of a weight p(s) over normalised depth s.

    On n piecewise-linear cells the penalty is n sum_i |p_i - p_(i-1)|^2 + tau |p_0|^2, with the
    paper's scaling.

    Args:
        tau: The weight of |p(0)|^2.
        power: The exponent of the first factor: n^power replaces n. An exponent other than 1
            defines another problem at every n, whose limit is another one or does not exist.

    Raises:
        InputError: `tau` is not positive.
    """

    tau: float = 1.0
    power: float = 1.0

    def __post_init__(self):
        if self.tau <= 0:
            raise InputError(
                "tau must be positive, or constant weights cost nothing and there is no limit; "
                f"got {self.tau}"
            )

    def __call__(self, basis: Basis) -> np.ndarray:
        """Return the Gram matrix of the penalty.

        Args:
            basis: The basis of the weight.

        Returns:
            The matrix (basis size, basis size).
        """
        return sobolev_gram(basis, self.tau, float(basis.count) ** (self.power - 1))


def square(basis: Basis) -> np.ndarray:
    """Return the Gram matrix of the L2 penalty int |p|^2.

    The L2 penalty does not keep neighbouring layers alike.

    Args:
        basis: The basis of the weight.

    Returns:
        The matrix (basis size, basis size).
    """
    return mass(basis)


class Perceptron(nnx.Module):
    """The paper's layer x' = activation(K x + b), with K and b zero at the start.

    Args:
        dimension: The dimension d of the states.
        activation: The activation, applied to every entry.
    """

    def __init__(self, dimension: int, activation: Callable[[Array], Array] = jnp.tanh):
        self.K = nnx.Param(jnp.zeros((dimension, dimension)))
        self.b = nnx.Param(jnp.zeros(dimension))
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Return the velocity at x.

        Args:
            x: States (..., d).
        """
        return self.activation(x @ self.K[...].T + self.b[...])


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimise loss(predict(readout, X(1)), y) + sum_p a_p penalty(p) + sum_r ridge_r |r|^2.

    X(1) are the states at depth 1. The first sum is over the parameters p of the layer, and the
    second sum is over the parameters r of the readout. Problems with the same functions `layer`,
    `predict` and `loss` share what is compiled for them.

    Args:
        x: The inputs (samples, d): the states at depth 0.
        y: The targets (samples, ...).
        layer: A function that returns a module f(x) or f(x, t), whose parameters p vary with depth.
        predict: The function predict(readout, states) from final states to predictions.
        loss: The function loss(prediction, y), which returns a scalar.
        weights: The weights a_p by the dotted name of the parameter, or one number for all. Zero
            leaves a parameter unpenalised.
        penalty: The penalty in depth of every parameter of the layer.
        readout: The shapes of the readout's parameters, by name.
        ridge: The weights ridge_r of the readout's parameters, by name.
    """

    x: np.ndarray
    y: np.ndarray
    layer: Callable[[], nnx.Module]
    predict: Callable[[dict[str, Array], Array], Array]
    loss: Callable[[Array, Array], Array]
    weights: Mapping[str, float] | float
    penalty: Penalty = Sobolev()
    readout: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ridge: Mapping[str, float] = field(default_factory=dict)

    def weight(self, name: str) -> float:
        """Return the weight a_p of a parameter.

        Args:
            name: The dotted name of the parameter.
        """
        return (
            float(self.weights[name]) if isinstance(self.weights, Mapping) else float(self.weights)
        )


def affine(readout: dict[str, Array], states: Array) -> Array:
    """Return the affine readout W X + c.

    Args:
        readout: The parameters "W" (d, ...) and "c" (...).
        states: The states X (samples, d).

    Returns:
        The predictions (samples, ...).
    """
    return states @ readout["W"] + readout["c"]


def squared_error(prediction: Array, y: Array) -> Array:
    """Return the mean over samples of |prediction - y|^2.

    Args:
        prediction: The predictions (samples, ...).
        y: The targets (samples, ...).
    """
    return jnp.sum((prediction - y) ** 2) / len(y)


def thorpe_van_gennip(
    x: Float[np.ndarray, "samples d"],
    y: Shaped[np.ndarray, "samples *output"],
    *,
    a: tuple[float, float, float, float] = (0.025, 0.025, 0.01, 0.01),
    tau: float = 1.0,
    activation: Callable[[Array], Array] = jnp.tanh,
    link: Callable[[Array], Array] = jax.nn.sigmoid,
    loss: Callable[[Array, Array], Array] = squared_error,
) -> Problem:
    """Build the paper's problem: layers activation(K x + b) and predictions link(W X(1) + c).

    The objectives E_n and E_infinity of the problem come from `discrete` and `continuum`.

    Args:
        x: The inputs (samples, d).
        y: The targets (samples,) or (samples, m).
        a: The positive weights a1, a2, a3, a4 of the penalties on K, b, W and c.
        tau: The positive weight of |K(0)|^2 and |b(0)|^2 in the penalties on K and b.
        activation: The activation of the layers.
        link: The function of the affine readout.
        loss: The function loss(prediction, y), which returns a scalar.

    Returns:
        The problem, with the penalty `Sobolev(tau)`.

    Raises:
        InputError: The shapes of `x` and `y` do not fit, or there is no sample.
        InputError: `x` or `y` is not finite.
        InputError: `a` does not hold four numbers, or a weight in `a` or `tau` is not positive.

    Example:
        >>> import numpy as np
        >>> from neuralflow.labs.deep_limit import thorpe_van_gennip
        >>> x = np.random.default_rng(0).standard_normal((10, 2))
        >>> problem = thorpe_van_gennip(x, y=(x[:, 0] * x[:, 1] > 0).astype(float))
        >>> problem.weights, problem.readout
        ({'K': 0.025, 'b': 0.025}, {'W': (2,), 'c': ()})

    Source:
        Thorpe & van Gennip, arXiv 1810.11741.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 2 or y.ndim not in (1, 2) or y.shape[:1] != x.shape[:1] or not len(x):
        raise InputError(
            f"expected x (samples, d) and y (samples,) or (samples, m), got shapes {x.shape} and "
            f"{y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("x and y must be finite; clean the data first")
    if len(a) != 4:
        raise InputError(f"a holds four weights, of K, b, W and c, got {a}")
    if min(*a, tau) <= 0:
        raise InputError(
            "the weights a and tau must be positive, or there is no limit to converge to; got "
            f"{a}, {tau}"
        )
    return Problem(
        x=x,
        y=y,
        layer=Perceptrons(x.shape[1], activation),
        predict=_Linked(link),
        loss=loss,
        weights={"K": a[0], "b": a[1]},
        penalty=Sobolev(tau),
        readout={"W": (x.shape[1], *y.shape[1:]), "c": y.shape[1:]},
        ridge={"W": a[2], "c": a[3]},
    )


@dataclass(frozen=True)
class Perceptrons:
    """A function that makes the paper's layer, equal for equal arguments.

    Problems over other data therefore share what is compiled.

    Args:
        dimension: The dimension d of the states.
        activation: The activation of the layer.
    """

    dimension: int
    activation: Any

    def __call__(self) -> nnx.Module:
        """Return a new layer."""
        return Perceptron(self.dimension, self.activation)


@dataclass(frozen=True)
class _Linked:
    link: Any

    def __call__(self, readout: dict[str, Array], states: Array) -> Array:
        return self.link(affine(readout, states))
