"""The objectives E_n and E_infinity, in coordinates whose curvature is the same at every depth.

`problem` defines the problem, and `minimum` minimises the objective.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractSolver
from flax import nnx
from jaxtyping import Array, Float, PyTree

from neuralflow.checks import InputError
from neuralflow.depth import DepthVarying, tied
from neuralflow.depth.basis import Basis, Legendre, PiecewiseLinear
from neuralflow.labs.deep_limit.problem import Problem
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Tsit5
from neuralflow.solve import Discretisation, FixedGrid

Shape = tuple[int, ...]


class Held(NamedTuple):
    """The numbers of an objective: the samples, and the map from coordinates to weights.

    The numbers are arguments of what is compiled, so that problems of one form share the compiled
    code.

    Attributes:
        x: The inputs (samples, d).
        y: The targets (samples, ...).
        colour: The matrix (basis size, basis size) from scaled coordinates to coefficients of
            weights.
        scale: The factor (size,) by which each coordinate is multiplied first: a^(-1/2) for a
            coordinate of weight a, and 1 for an unpenalised coordinate.
        penalised: 1 for each penalised coordinate and 0 for each other one, (size,).
    """

    x: Any
    y: Any
    colour: Any
    scale: Any
    penalised: Any


class Objective:
    """E_n or E_infinity: a problem on one basis under one discretisation, in whitened coordinates.

    The regulariser is |xi|^2 for the coordinates xi at every depth, where unpenalised coordinates
    do not count. Minimisation therefore takes as many iterations for 256 layers as for four.

    On `PiecewiseLinear(n)` with n steps of Euler, the last node enters the regulariser alone. The
    minimisers and minima are therefore those of the paper's n layers.

    Args:
        problem: The problem.
        basis: The basis of the weights in normalised depth.
        solve: The discretisation of the ODE on [0, 1].

    Raises:
        InputError: The names in `problem.weights` are not those of the layer's parameters.
        RuntimeError: jax_enable_x64 is not set.
    """

    def __init__(self, problem: Problem, basis: Basis, solve: Discretisation):
        if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
            raise RuntimeError(
                'the deep limit is computed in float64; call jax.config.update("jax_enable_x64", '
                "True) first"
            )
        self.problem, self.basis, self.solve = problem, basis, solve
        readout = tuple((name, tuple(shape)) for name, shape in problem.readout.items())
        self.form = _form(problem.layer, problem.predict, problem.loss, readout, basis, solve)
        if isinstance(problem.weights, Mapping) and set(self.form.shapes) != set(problem.weights):
            raise InputError(
                f"weights are given for {sorted(problem.weights)}, the layer has parameters "
                f"{sorted(self.form.shapes)}"
            )
        gram = problem.penalty(basis)
        self._whiten = np.linalg.cholesky(gram).T
        weights = np.concatenate(
            [np.full(int(np.prod(shape)), weight) for _, shape, weight in self._blocks()]
        )
        self.held = Held(
            x=np.asarray(problem.x, float),
            y=np.asarray(problem.y, float),
            colour=np.linalg.inv(self._whiten),
            scale=1 / np.sqrt(np.where(weights > 0, weights, 1.0)),
            penalised=(weights > 0).astype(float),
        )

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return len(self.held.scale)

    def _blocks(self) -> Iterator[tuple[str, Shape, float]]:
        """Yield the name, shape and penalty weight of every block of coordinates, in order."""
        for name, shape in self.form.shapes.items():
            yield name, (self.basis.size, *shape), self.problem.weight(name)
        for name, shape in self.form.readout.items():
            yield name, shape, self.problem.ridge[name]

    def parameters(self, xi: Array | np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the parameters that belong to coordinates.

        Args:
            xi: Whitened coordinates (size,).

        Returns:
            The coefficients of the weights by dotted name, with the basis on the first axis, and
            the readout by name.
        """
        return self.form.parameters(xi, self.held)

    def coordinates(self, theta: Mapping[str, Any], readout: Mapping[str, Any]) -> np.ndarray:
        """Return the coordinates that belong to parameters: the inverse of `parameters`.

        Args:
            theta: The coefficients of the weights by dotted name, with the basis on the first axis.
            readout: The parameters of the readout by name.

        Returns:
            Whitened coordinates (size,).
        """
        parts = [
            np.tensordot(self._whiten, np.asarray(theta[name]), axes=1).ravel()
            for name in self.form.shapes
        ]
        parts += [np.ravel(np.asarray(readout[name])) for name in self.form.readout]
        return np.concatenate(parts) / self.held.scale

    def layer(self, theta: Mapping[str, Array]) -> NeuralODE:
        """Return the network with the given coefficients.

        Args:
            theta: The coefficients of the weights by dotted name, with the basis on the first axis.
        """
        return self.form.layer(theta)

    def __call__(self, xi: Array | np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Evaluate the objective and its gradient.

        Args:
            xi: Whitened coordinates (size,).

        Returns:
            The energy, its gradient (size,) and the predictions (samples, ...), as NumPy arrays.
        """
        (energy, prediction), gradient = self.form.pull(xi, self.held)
        return float(energy), np.asarray(gradient, float), np.asarray(prediction, float)

    def energy(self, xi: Float[Array, " size"]) -> Array:
        """Return the energy alone, in a form that JAX can transform.

        Args:
            xi: Whitened coordinates (size,).
        """
        return self.form.energy(xi, self.held)[0]

    def bend(self, xi: Array | np.ndarray, direction: PyTree) -> np.ndarray:
        """Return the product of the Hessian with a direction.

        Args:
            xi: Whitened coordinates (size,) where the Hessian is taken.
            direction: The direction (size,).

        Returns:
            The product (size,).
        """
        return np.asarray(self.form.bend(xi, direction, self.held), float)


class _Form:
    """What problems of the same functions share on one basis under one discretisation.

    A form holds everything that is compiled.
    """

    def __init__(
        self,
        layer: Any,
        predict: Any,
        loss: Any,
        readout: tuple[tuple[str, Shape], ...],
        basis: Basis,
        solve: Discretisation,
    ):
        self.predict, self.loss, self.readout, self.basis, self.solve = (
            predict,
            loss,
            dict(readout),
            basis,
            solve,
        )
        varying = nnx.eval_shape(
            lambda: DepthVarying(lambda rngs: layer(), basis, rngs=nnx.Rngs(0), init=tied)
        )
        self.graphdef, self.state = nnx.split(varying)
        flat = nnx.to_flat_state(self.state)
        self.shapes: dict[str, Shape] = {
            _name(path): leaf.get_value().shape[1:] for path, leaf in flat
        }
        self.pull = jax.jit(jax.value_and_grad(self.energy, has_aux=True))
        self.bend = jax.jit(self._bend)

    def parameters(
        self, xi: Array | np.ndarray, held: Held
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        # NumPy arrays stay NumPy arrays, so that nothing is compiled outside the energy itself.
        dot = np.tensordot if isinstance(xi, np.ndarray) else jnp.tensordot
        xi, at = xi * held.scale, 0
        theta, readout = {}, {}
        for name, shape in self.shapes.items():
            block = xi[at : at + self.basis.size * int(np.prod(shape))]
            theta[name] = dot(held.colour, block.reshape(self.basis.size, *shape), axes=1)
            at += len(block)
        for name, shape in self.readout.items():
            block = xi[at : at + int(np.prod(shape))]
            readout[name] = block.reshape(shape)
            at += len(block)
        return theta, readout

    def layer(self, theta: Mapping[str, Any]) -> NeuralODE:
        leaves = [theta[_name(path)] for path, _ in nnx.to_flat_state(self.state)]
        varying = nnx.merge(
            self.graphdef, jax.tree.unflatten(jax.tree.structure(self.state), leaves)
        )
        return NeuralODE(varying, self.solve)

    def energy(self, xi: Array, held: Held) -> tuple[Array, Array]:
        theta, readout = self.parameters(xi, held)
        prediction = self.predict(readout, self.layer(theta)(jnp.asarray(held.x)))
        return self.loss(prediction, held.y) + jnp.sum(held.penalised * xi**2), prediction

    def _bend(self, xi: Array, direction: Array, held: Held) -> Array:
        def slope(xi):
            return jax.grad(self.energy, has_aux=True)(xi, held)[0]

        return jax.jvp(slope, (xi,), (direction,))[1]


_form: Callable[..., _Form] = functools.lru_cache(maxsize=256)(_Form)


def _name(path: tuple[Any, ...]) -> str:
    """Return the dotted name of a parameter inside the layer.

    The first entry of the path is the stack that holds the parameter.
    """
    return ".".join(map(str, path[1:]))


def discrete(problem: Problem, scheme: AbstractSolver, depth: int) -> Objective:
    """Return E_n, the objective of n layers.

    The weights are piecewise linear between n + 1 nodes.

    Args:
        problem: The problem.
        scheme: The scheme, one step a layer.
        depth: The number n of steps.
    """
    return Objective(problem, PiecewiseLinear(depth), FixedGrid(scheme, steps=depth, memory="full"))


def continuum(problem: Problem, terms: int = 20, steps: int = 64) -> Objective:
    """Return E_infinity by a spectral method.

    The weights are polynomials in depth. The steps are fixed, because the derivative of an adaptive
    solve with respect to the fastest modes is less accurate than the tolerance. `adaptive_energy`
    checks the value.

    Args:
        problem: The problem.
        terms: The number of polynomials, of degree below `terms`.
        steps: The number of steps of Tsit5.
    """
    return Objective(problem, Legendre(terms), FixedGrid(Tsit5(), steps=steps, memory="full"))
