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

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
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
            defines another problem at every n, whose limit is another one or does not exist. A
            power lies between 0 and 16: below 0 the penalty of deep networks would vanish.

    Raises:
        InputError: `tau` is not positive, or `power` lies outside its range.
        InputTypeError: `tau` or `power` is not a number.
    """

    tau: float = 1.0
    power: float = 1.0

    def __post_init__(self):
        checks.number("tau", self.tau, above=0.0)
        checks.number("power", self.power, least=0.0)
        if self.power > 16:
            raise InputError(
                f"power must be at most 16, so that float64 holds n^power, got {self.power}"
            )

    def __call__(self, basis: Basis) -> np.ndarray:
        """Return the Gram matrix of the penalty.

        Args:
            basis: The basis of the weight.

        Returns:
            The matrix (basis size, basis size).

        Raises:
            InputTypeError: `basis` is no basis.

        @public
        """
        checks.instance("basis", basis, Basis, "a basis such as nf.PiecewiseLinear(8)")
        return sobolev_gram(basis, self.tau, float(basis.count) ** (self.power - 1))


def square(basis: Basis) -> np.ndarray:
    """Return the Gram matrix of the L2 penalty int |p|^2.

    The L2 penalty does not keep neighbouring layers alike.

    Args:
        basis: The basis of the weight.

    Returns:
        The matrix (basis size, basis size).

    Raises:
        InputTypeError: `basis` is no basis.
    """
    checks.instance("basis", basis, Basis, "a basis such as nf.PiecewiseLinear(8)")
    return mass(basis)


class Perceptron(nnx.Module):
    """The paper's layer x' = activation(K x + b), with K and b zero at the start.

    Args:
        dimension: The dimension d of the states.
        activation: The activation, applied to every entry.

    Raises:
        InputError: `dimension` is below one, or K would hold more than 2^30 numbers.
        InputTypeError: `dimension` is not a whole number, or `activation` is not a function.
    """

    def __init__(self, dimension: int, activation: Callable[[Array], Array] = jnp.tanh):
        checks.whole("dimension", dimension)
        checks.held(f"K of dimension = {dimension}", int(dimension) ** 2, "take fewer coordinates")
        checks.function("activation", activation, 1)
        self.K = nnx.Param(jnp.zeros((dimension, dimension)))
        self.b = nnx.Param(jnp.zeros(dimension))
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Return the velocity at x.

        Args:
            x: States (..., d).

        Raises:
            InputError: The last axis of x does not have d entries.
            InputTypeError: x is not an array.

        @public
        """
        checks.instance("x", x, jax.Array | np.ndarray, "an array of states (..., d)")
        if x.shape[-1:] != self.b[...].shape:
            raise InputError(f"x must be states (..., {len(self.b[...])}), got shape {x.shape}")
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

    Raises:
        InputError: `x` or `y` is empty or not finite, or they differ in the number of samples.
        InputError: A weight is negative or not finite, or `ridge` has other names than `readout`.
        InputTypeError: An argument is of the wrong kind.
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

    def __post_init__(self):
        x, y = np.asarray(checks.numbers("x", self.x)), np.asarray(_targets(self.y))
        if x.ndim < 2 or not y.ndim or len(x) != len(y) or not x.size or not y.size:
            raise InputError(
                "x must be inputs (samples, d) and y their targets (samples, ...), got shapes "
                f"{x.shape} and {y.shape}"
            )
        checks.function("layer", self.layer, 0)
        checks.function("predict", self.predict, 2)
        checks.function("loss", self.loss, 2)
        checks.function("penalty", self.penalty, 1)
        if isinstance(self.penalty, type):
            raise InputTypeError(
                f"penalty must be a function, got the class {self.penalty.__name__}; build one"
            )
        if isinstance(self.weights, Mapping):
            for name, value in self.weights.items():
                checks.number(f"weights[{name!r}]", value, least=0.0)
        else:
            checks.number("weights", self.weights, least=0.0)
        for name in ("readout", "ridge"):
            checks.instance(name, getattr(self, name), Mapping, "a mapping by parameter")
        for name, shape in self.readout.items():
            for size in checks.sequence(f"readout[{name!r}]", shape, "a shape such as (2,)"):
                checks.whole(f"an entry of readout[{name!r}]", size)
        if set(self.ridge) != set(self.readout):
            raise InputError(
                f"ridge has a weight for every parameter of readout, {sorted(self.readout)}, got "
                f"{sorted(map(str, self.ridge))}"
            )
        for name, value in self.ridge.items():
            checks.number(f"ridge[{name!r}]", value, least=0.0)

    def weight(self, name: str) -> float:
        """Return the weight a_p of a parameter.

        Args:
            name: The dotted name of the parameter.

        Raises:
            InputError: `weights` does not know the name.
        """
        if isinstance(self.weights, Mapping):
            checks.choice("name", name, tuple(self.weights))
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

    Raises:
        InputError: `readout` does not hold W and c, or their shapes do not fit the states.
        InputTypeError: `readout` is no mapping, or an array is not made of real numbers.
    """
    checks.instance("readout", readout, Mapping, "{'W': ..., 'c': ...}")
    states = checks.numbers("states", states, finite=False)
    if not {"W", "c"} <= set(readout):
        raise InputError(f"readout must hold 'W' and 'c', got {sorted(map(str, readout))}")
    w, c = (checks.numbers(f"readout['{k}']", readout[k], finite=False) for k in "Wc")
    if not states.ndim or not w.ndim or states.shape[-1] != len(w) or c.shape != w.shape[1:]:
        raise InputError(
            "readout and states must fit, W (d, ...), c (...) and states (samples, d), got shapes "
            f"{w.shape}, {c.shape} and {states.shape}"
        )
    return states @ readout["W"] + readout["c"]


def squared_error(prediction: Array, y: Array) -> Array:
    """Return the mean over samples of |prediction - y|^2.

    Args:
        prediction: The predictions (samples, ...).
        y: The targets (samples, ...).

    Raises:
        InputError: The shapes differ, or there is no sample.
        InputTypeError: `prediction` or `y` is not made of real numbers.
    """
    prediction = checks.numbers("prediction", prediction, finite=False)
    y = checks.numbers("y", y, finite=False)
    if prediction.shape != y.shape or not y.size or not y.ndim:
        raise InputError(
            "prediction and y must have one shape (samples, ...), at least one sample, got "
            f"{prediction.shape} and {y.shape}"
        )
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
        InputTypeError: `x`, `y`, `a` or `tau` is not made of real numbers, or `activation`, `link`
            or `loss` is not a function of so many arguments.

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
    x, y = np.asarray(checks.numbers("x", x), float), _targets(y)
    if x.ndim != 2 or y.ndim not in (1, 2) or y.shape[:1] != x.shape[:1] or not x.size * y.size:
        raise InputError(
            f"expected x (samples, d) and y (samples,) or (samples, m), got shapes {x.shape} and "
            f"{y.shape}"
        )
    a = checks.sequence("a", a, "four weights, of K, b, W and c")
    if len(a) != 4:
        raise InputError(f"a holds four weights, of K, b, W and c, got {a}")
    for weight in a:
        checks.number("a weight in a", weight, above=0.0)
    checks.function("activation", activation, 1)
    checks.function("link", link, 1)
    checks.function("loss", loss, 2)
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


def _targets(y: Any) -> np.ndarray:
    """Return targets as numbers. Truth values count as 0 and 1."""
    truth = isinstance(y, np.ndarray | jax.Array) and y.dtype == bool
    return np.asarray(y if truth else checks.numbers("y", y), float)


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
