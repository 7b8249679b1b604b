"""What is minimised: data, a layer whose weights vary with depth, a readout, a loss, and a penalty on the weights."""

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
"""The Gram matrix of the penalty of one weight on a basis: coefficients c cost c^T G c."""


@dataclass(frozen=True)
class Sobolev:
    """int |p'|^2 + tau |p(0)|^2, the paper's penalty.

    On n piecewise-linear cells it is n sum |p_i - p_(i-1)|^2 + tau |p_0|^2, the paper's scaling. `power` replaces that
    first n by n^power: any other than 1 is another problem at every n, and has another limit or none.
    """

    tau: float = 1.0
    power: float = 1.0

    def __post_init__(self):
        if self.tau <= 0:
            raise InputError(
                f"tau must be positive, or constant weights cost nothing and there is no limit; got {self.tau}"
            )

    def __call__(self, basis: Basis) -> np.ndarray:
        """The Gram matrix."""
        return sobolev_gram(basis, self.tau, float(basis.count) ** (self.power - 1))


def square(basis: Basis) -> np.ndarray:
    """int |p|^2, an L2 penalty: it does not keep neighbouring layers alike."""
    return mass(basis)


class Perceptron(nnx.Module):
    """The paper's layer x' = activation(K x + b)."""

    def __init__(self, dimension: int, activation: Callable[[Array], Array] = jnp.tanh):
        self.K = nnx.Param(jnp.zeros((dimension, dimension)))
        self.b = nnx.Param(jnp.zeros(dimension))
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Velocity at x."""
        return self.activation(x @ self.K[...].T + self.b[...])


@dataclass(frozen=True, eq=False)
class Problem:
    """loss(predict(readout, X(1)), y) + sum_p a_p penalty(p) + sum_r ridge_r |r|^2.

    `x` (samples, d): inputs, the states at depth 0. `y` (samples, ...): what `loss(prediction, y)`, a scalar, compares
    with. `layer()`: a module f(x) or f(x, t) whose parameters p vary with depth; `weights`: a_p by the dotted name of
    the parameter, or one number for all; zero leaves a parameter unpenalised. `predict(readout, states)`: `readout`
    gives the shapes of its parameters, `ridge` their weights.

    Problems that share layer, predict and loss, the functions themselves, share what is compiled for them.
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
        """The weight a_p of a parameter."""
        return (
            float(self.weights[name]) if isinstance(self.weights, Mapping) else float(self.weights)
        )


def affine(readout: dict[str, Array], states: Array) -> Array:
    """W X + c."""
    return states @ readout["W"] + readout["c"]


def squared_error(prediction: Array, y: Array) -> Array:
    """The mean over samples of |prediction - y|^2."""
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
    """The paper's E_n: layers activation(K x + b), prediction link(W X(1) + c).

    `x` (samples, d), `y` (samples,) or (samples, m). `a`: the weights a1 (K), a2 (b), a3 (W), a4 (c).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 2 or y.ndim not in (1, 2) or y.shape[:1] != x.shape[:1] or not len(x):
        raise InputError(
            f"expected x (samples, d) and y (samples,) or (samples, m), got shapes {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("x and y must be finite; clean the data first")
    if len(a) != 4:
        raise InputError(f"a holds four weights, of K, b, W and c, got {a}")
    if min(*a, tau) <= 0:
        raise InputError(
            f"the weights a and tau must be positive, or there is no limit to converge to; got {a}, {tau}"
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
    """Makes the paper's layer; equal for equal arguments, so that problems over other data share what is compiled."""

    dimension: int
    activation: Any

    def __call__(self) -> nnx.Module:
        return Perceptron(self.dimension, self.activation)


@dataclass(frozen=True)
class _Linked:
    link: Any

    def __call__(self, readout: dict[str, Array], states: Array) -> Array:
        return self.link(affine(readout, states))
