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

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.depth import DepthVarying, tied
from neuralflow.depth.basis import Basis, Legendre, PiecewiseLinear
from neuralflow.labs.deep_limit.problem import Problem
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Tsit5
from neuralflow.solve import Discretisation, FixedGrid

Shape = tuple[int, ...]
_MOST = 2**13


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
        InputError: `basis` has more than 8192 shape functions, whose penalty is a dense matrix.
        InputTypeError: An argument is of another kind.
        RuntimeError: jax_enable_x64 is not set.
    """

    def __init__(self, problem: Problem, basis: Basis, solve: Discretisation):
        if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
            raise RuntimeError(
                'the deep limit is computed in float64; call jax.config.update("jax_enable_x64", '
                "True) first"
            )
        checks.instance("problem", problem, Problem, "a Problem such as thorpe_van_gennip(x, y)")
        checks.instance("basis", basis, Basis, "a basis such as nf.PiecewiseLinear(8)")
        checks.instance("solve", solve, Discretisation, "a discretisation such as nf.FixedGrid")
        if basis.size > _MOST:
            raise InputError(
                f"basis must have at most {_MOST} shape functions, since the penalty is a dense "
                f"matrix, got {basis.size}"
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

        Raises:
            InputError: `xi` has another shape.
            InputTypeError: `xi` is not made of real numbers.
        """
        return self.form.parameters(self._checked("xi", xi), self.held)

    def _checked(self, name: str, xi: Any) -> Any:
        """Return coordinates as an array (size,). Their values are not looked at."""
        xi = checks.numbers(name, xi, finite=False)
        if xi.shape != (self.size,):
            raise InputError(f"{name} must have the shape ({self.size},), got {xi.shape}")
        return xi

    def _named(self, what: str, values: Any, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """Return parameters by name as arrays of these shapes."""
        checks.instance(what, values, Mapping, "a mapping from names to arrays")
        if not set(shapes) <= set(values):
            raise InputError(f"{what} must hold {sorted(shapes)}, got {sorted(map(str, values))}")
        arrays = {
            name: checks.numbers(f"{what}[{name!r}]", values[name], finite=False) for name in shapes
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise InputError(
                    f"{what}[{name!r}] must have the shape {shape}, got {arrays[name].shape}"
                )
        return arrays

    def _weights(self, theta: Any) -> dict[str, Any]:
        size = self.basis.size
        return self._named("theta", theta, {n: (size, *s) for n, s in self.form.shapes.items()})

    def coordinates(self, theta: Mapping[str, Any], readout: Mapping[str, Any]) -> np.ndarray:
        """Return the coordinates that belong to parameters: the inverse of `parameters`.

        Args:
            theta: The coefficients of the weights by dotted name, with the basis on the first axis.
            readout: The parameters of the readout by name.

        Returns:
            Whitened coordinates (size,).

        Raises:
            InputError: A name is missing, or an array has another shape.
            InputTypeError: An argument is no mapping, or an array is not made of real numbers.
        """
        theta, readout = (
            self._weights(theta),
            self._named("readout", readout, self.form.readout),
        )
        parts = [
            np.tensordot(self._whiten, np.asarray(value), axes=1).ravel()
            for value in theta.values()
        ]
        parts += [np.ravel(np.asarray(value)) for value in readout.values()]
        return np.concatenate(parts) / self.held.scale

    def layer(self, theta: Mapping[str, Array]) -> NeuralODE:
        """Return the network with the given coefficients.

        Args:
            theta: The coefficients of the weights by dotted name, with the basis on the first axis.

        Raises:
            InputError: A name is missing, or an array has another shape.
            InputTypeError: `theta` is no mapping, or an array is not made of real numbers.
        """
        return self.form.layer(self._weights(theta))

    def __call__(self, xi: Array | np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Evaluate the objective and its gradient.

        Args:
            xi: Whitened coordinates (size,).

        Returns:
            The energy, its gradient (size,) and the predictions (samples, ...), as NumPy arrays.

        Raises:
            InputError: `xi` has another shape.
            InputTypeError: `xi` is not made of real numbers.

        @public
        """
        xi = jnp.asarray(self._checked("xi", xi), float)
        (energy, prediction), gradient = self.form.pull(xi, self.held)
        return float(energy), np.asarray(gradient, float), np.asarray(prediction, float)

    def energy(self, xi: Float[Array, " size"]) -> Array:
        """Return the energy alone, in a form that JAX can transform.

        Args:
            xi: Whitened coordinates (size,).

        Raises:
            InputError: `xi` has another shape.
            InputTypeError: `xi` is not made of real numbers.
        """
        return self.form.energy(self._checked("xi", xi), self.held)[0]

    def bend(self, xi: Array | np.ndarray, direction: PyTree) -> np.ndarray:
        """Return the product of the Hessian with a direction.

        Args:
            xi: Whitened coordinates (size,) where the Hessian is taken.
            direction: The direction (size,).

        Returns:
            The product (size,).

        Raises:
            InputError: `xi` or `direction` has another shape.
            InputTypeError: `xi` or `direction` is not made of real numbers.
        """
        xi = jnp.asarray(self._checked("xi", xi), float)
        direction = jnp.asarray(self._checked("direction", direction), float)
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


def checked_depths(depths: Any, least: int = 1) -> tuple[int, ...]:
    """Return numbers of layers, and refuse anything else.

    Args:
        depths: The numbers of layers, at least one number.
        least: The smallest number of layers that is allowed.

    Returns:
        The numbers.

    Raises:
        InputError: A number is below `least` or above 8191, or there is none.
        InputTypeError: `depths` is no sequence, or a number is not whole.
    """
    depths = checks.sequence("depths", depths, "a list of numbers of layers")
    if not depths:
        raise InputError("depths must hold one number of layers at least, got none")
    for depth in depths:
        checks.whole("each of depths", depth, least, _MOST - 1)
    return tuple(map(int, depths))


def discrete(problem: Problem, scheme: AbstractSolver, depth: int) -> Objective:
    """Return E_n, the objective of n layers.

    The weights are piecewise linear between n + 1 nodes.

    Args:
        problem: The problem.
        scheme: The scheme, one step a layer.
        depth: The number n of steps, at most 8191.

    Raises:
        InputError: `depth` is below 1 or above 8191, or `problem` names other parameters.
        InputTypeError: An argument is of another kind.
    """
    checks.whole("depth", depth, most=_MOST - 1)
    checks.instance("scheme", scheme, AbstractSolver, "a scheme such as nf.Euler()")
    return Objective(problem, PiecewiseLinear(depth), FixedGrid(scheme, steps=depth, memory="full"))


def continuum(problem: Problem, terms: int = 20, steps: int = 64) -> Objective:
    """Return E_infinity by a spectral method.

    The weights are polynomials in depth. The steps are fixed, because the derivative of an adaptive
    solve with respect to the fastest modes is less accurate than the tolerance. `adaptive_energy`
    checks the value.

    Args:
        problem: The problem.
        terms: The number of polynomials, of degree below `terms`, at most 1024.
        steps: The number of steps of Tsit5, at most 65536.

    Raises:
        InputError: `terms` is below 1 or above 1024, `steps` is below 1 or above 65536, or
            `problem` names other parameters.
        InputTypeError: An argument is of another kind.
    """
    checks.whole("terms", terms, most=2**10)
    checks.whole("steps", steps, most=2**16)
    return Objective(problem, Legendre(terms), FixedGrid(Tsit5(), steps=steps, memory="full"))
