"""Fields of Gaussian kernels, and their geodesics of diffeomorphisms (LDDMM, landmarks).

The kernel is k(x, y) = exp(-|x - y|^2 / (2 width^2)). A kernel field is v(x) = sum_j k(x, c_j) a_j
with centres c_j and momenta a_j. The norm of v in the Hilbert space of the kernel is ||v||^2 =
sum_ij a_i . a_j k(c_i, c_j).

A geodesic starts from landmarks q and initial momenta p. The geodesic solves q' = dH/dp, p' =
-dH/dq with the Hamiltonian H = ||v||^2 / 2.

Source:
    Miller, Trouve & Younes 2006, as recalled, for the equations of the geodesic.
    Rousseau & Fablet, arXiv 1805.09585, for the geodesic view with kernels for fields, in our
    formulation.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from flax import nnx
from jax import core, lax
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.annotations import Real, Reals
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import raw
from neuralflow.fields import Hamiltonian
from neuralflow.labs.diffeo.lipschitz import lipschitz_rule, over_depth
from neuralflow.layers import NeuralODE
from neuralflow.schemes import RK4
from neuralflow.solve import Discretisation, FixedGrid, SolveError, Status

_STEPS = 150
_UNITS = "give it in units of the points"


def gaussian(
    x: Float[Array, "*batch m d"], y: Float[Array, "*batch n d"], width: Real | nnx.Param
) -> Float[Array, "*batch m n"]:
    """Return the kernel matrix k(x_i, y_j).

    Args:
        x: The points x_i, `(..., m, d)`.
        y: The points y_j, `(..., n, d)`.
        width: The width of the Gaussian kernel, in units of the points.

    Returns:
        The matrix exp(-|x_i - y_j|^2 / (2 width^2)), `(..., m, n)`.

    Raises:
        InputTypeError: `x` or `y` is not an array of real floating-point numbers.
        InputError: `x` and `y` are not points in rows with equally many coordinates, or `width` is
            not a positive number.
    """
    checks.array("x", x, "...", "m", "d")
    checks.array("y", y, "...", "n", x.shape[-1])
    width = raw(width)
    if not isinstance(width, core.Tracer):
        checks.positive("width", width, _UNITS)
    gaps = x[..., :, None, :] - y[..., None, :, :]
    return jnp.exp(-jnp.sum(gaps**2, axis=-1) / (2 * width**2))


def _square(q: Array, p: Array, width: float) -> Array:
    """Return ||v||^2 of the field with momenta p at the points q, `(..., n, d)` each."""
    return jnp.sum(p * (gaussian(q, q, width) @ p), axis=(-2, -1))


class KernelField(nnx.Module):
    """The velocity field v(x) = sum_j k(x, c_j) a_j of centres c_j and momenta a_j.

    k is the Gaussian kernel. The centres stay as they are given. The momenta are an nnx.Param and
    are trained.

    In a `neuralflow.DepthVarying`, every depth has momenta of its own. The field then depends on
    depth time, and `action(layer)` is the energy of its path.

    Args:
        centres: The centres c, `(n, d)`.
        width: The width of the Gaussian kernel, in units of the points.
        momenta: The momenta a, `(n, d)`. None stands for zeros, a field at rest.

    Raises:
        InputTypeError: `centres` or `momenta` are not real numbers.
        InputError: `centres` are not points in rows, or not finite.
        InputError: `momenta` and `centres` differ in shape, or `momenta` are not finite.
        InputError: `width` is not a positive number.
    """

    def __init__(
        self,
        centres: Array | np.ndarray | nnx.Variable,
        width: float,
        momenta: Array | np.ndarray | nnx.Variable | None = None,
    ):
        centres = _points("centres", centres)
        momenta = (
            jnp.zeros_like(centres)
            if momenta is None
            else _like("momenta", momenta, centres, "centres")
        )
        checks.positive("width", width, _UNITS)
        self.centres = nnx.data(centres)
        self.momenta = nnx.Param(momenta)
        self.width = float(width)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Return the velocity at x.

        Args:
            x: The points, `(..., d)`.

        Returns:
            The velocity, `(..., d)`, in the dtype of x.

        Raises:
            InputTypeError: `x` is not an array of real floating-point numbers.
            InputError: The points and the centres differ in their number of coordinates.

        @public
        """
        checks.array("x", x, "...", self.centres.shape[-1])
        gaps = x[..., None, :] - self.centres.astype(x.dtype)
        weights = jnp.exp(-jnp.sum(gaps**2, axis=-1) / (2 * self.width**2))
        return weights @ self.momenta[...].astype(x.dtype)

    def energy(self) -> Float[Array, ""]:
        """Return ||v||^2 in the Hilbert space of the kernel."""
        return _square(self.centres, self.momenta[...], self.width)


@lipschitz_rule.register
def _(module: KernelField) -> Array:
    """Return the Lipschitz bound ||v|| / width.

    The derivative of the kernel along a unit vector has the norm 1 / width.
    """
    return _root(module.energy()) / module.width


class _Kinetic(nnx.Module):
    """The energy H(q, p) = sum_ij p_i . p_j k(q_i, q_j) / 2 of landmarks q and momenta p.

    Both have the shape `(..., n, d)`.
    """

    def __init__(self, width: float):
        self.width = width

    def __call__(self, state: PyTree) -> Array:
        q, p = state
        return _square(q, p, self.width) / 2


class _Shooting(nnx.Module):
    """The equations of the geodesic for (q, p, x): landmarks, momenta, and points.

    The flow carries the points x along. The landmarks and momenta do not depend on x.
    """

    def __init__(self, width: float):
        self.landmarks = Hamiltonian(_Kinetic(width))

    def __call__(self, state: PyTree) -> Any:
        q, p, x = state
        kinetic: Any = self.landmarks.energy
        return *self.landmarks((q, p)), gaussian(x, q, kinetic.width) @ p


class Geodesic(nnx.Module):
    """The diffeomorphism at the end of a geodesic, defined by initial landmarks and momenta.

    A call on points moves them along the geodesic. `invert(y)` moves points back. The landmarks
    stay as they are given. The momenta are an nnx.Param.

    Args:
        landmarks: The landmarks q at the start, `(n, d)`.
        momenta: The momenta p of the landmarks at the start, `(n, d)`.
        width: The width of the Gaussian kernel, in units of the points.
        solve: The discretisation of the landmarks' equations over a depth time of one. None stands
            for RK4 in 32 steps.

    Raises:
        InputTypeError: `landmarks` or `momenta` are not real numbers.
        InputError: `landmarks` are not points in rows, or not finite.
        InputError: `momenta` and `landmarks` differ in shape, or `momenta` are not finite.
        InputError: `width` is not a positive number.
    """

    def __init__(
        self,
        landmarks: Array | np.ndarray | nnx.Variable,
        momenta: Array | np.ndarray | nnx.Variable,
        width: float,
        solve: Discretisation | None = None,
    ):
        landmarks = _points("landmarks", landmarks)
        momenta = _like("momenta", momenta, landmarks, "landmarks")
        checks.positive("width", width, _UNITS)
        self.landmarks = nnx.data(landmarks)
        self.momenta = nnx.Param(momenta)
        self.width = float(width)
        self.layer = NeuralODE(
            _Shooting(self.width), FixedGrid(RK4(), steps=32) if solve is None else solve
        )

    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m d"]:
        """Move points from the start of the geodesic to its end.

        Args:
            x: The points at the start, `(m, d)`.

        Returns:
            The points at the end, `(m, d)`, in the dtype of x.

        Raises:
            InputTypeError: `x` is not an array of real floating-point numbers.
            InputError: `x` does not have the shape `(m, d)`.

        @public
        """
        return self.layer((*self._start, self._own("x", x)))[2].astype(x.dtype)

    def invert(self, y: Float[Array, "m d"]) -> Float[Array, "m d"]:
        """Move points from the end of the geodesic back to its start.

        The geodesic is integrated backward from its end. The result is exact up to the errors of
        the solve.

        Args:
            y: The points at the end, `(m, d)`.

        Returns:
            The points at the start, `(m, d)`, in the dtype of y.

        Raises:
            InputTypeError: `y` is not an array of real floating-point numbers.
            InputError: `y` does not have the shape `(m, d)`.
        """
        own = self._own("y", y)
        q, p, _ = self.layer((*self._start, own))
        return self.layer.reverse()((q, p, own))[2].astype(y.dtype)

    def _own(self, name: str, x: PyTree) -> Array:
        """Return points in the precision of the landmarks."""
        checks.array(name, x, "m", self.landmarks.shape[1])
        return jnp.asarray(x, self.landmarks.dtype)

    def path(
        self, depths: Reals | None = None
    ) -> tuple[Float[Array, "times n d"], Float[Array, "times n d"]]:
        """Return landmarks and momenta along the geodesic.

        Args:
            depths: Depth times in [0, 1], `(times,)`, in increasing order. None stands for the
                edges of all steps of a fixed grid.

        Returns:
            The landmarks and the momenta, `(times, n, d)` each.

        Raises:
            InputError: `depths` are no depth times in increasing order between 0 and 1.
        """
        if depths is not None and not isinstance(depths, core.Tracer):
            depths = checks.known_numbers("depths", depths, "times")
        q, p, _ = self.layer.trajectory((*self._start, self.landmarks[:1]), depths)
        return q, p

    def hamiltonian(self, q: PyTree, p: PyTree) -> Float[Array, "..."]:
        """Return the Hamiltonian H at landmarks and momenta.

        H is constant along the geodesic, up to the errors of the solve.

        Args:
            q: The landmarks, `(..., n, d)`.
            p: The momenta, `(..., n, d)`.

        Returns:
            The values of H, `(...)`.

        Raises:
            InputTypeError: `q` or `p` is not an array of real floating-point numbers.
            InputError: `q` and `p` differ in shape, or in their coordinates from the landmarks.
        """
        checks.array("q", q, "...", "n", self.landmarks.shape[1])
        checks.array("p", p, *q.shape)
        return _Kinetic(self.width)((q, p))

    @property
    def energy(self) -> Float[Array, ""]:
        """The energy ||v||^2 / 2, which is the same at every depth."""
        return self.hamiltonian(*self._start)

    @property
    def length(self) -> Float[Array, ""]:
        """The length ||v|| of the geodesic.

        The length is the distance of the diffeomorphism from the identity, as long as the geodesic
        is the shortest one.
        """
        return _root(2 * self.energy)

    @property
    def _start(self) -> tuple[Array, Array]:
        return self.landmarks, self.momenta[...]


def register(
    source: Array | np.ndarray,
    target: Array | np.ndarray,
    width: float,
    *,
    fidelity: float = 1e4,
    solve: Discretisation | None = None,
) -> Geodesic:
    """Find the geodesic that takes the landmarks `source` to the landmarks `target`, in order.

    The geodesic minimises H + fidelity / 2 * sum |q(1) - target|^2. Here H is the energy, and q(1)
    are the landmarks at the end. The method of Levenberg and Marquardt optimises the initial
    momenta, to about four digits. Momenta that the kernel cannot tell apart are left out.

    The function runs eagerly, outside of transformations.

    Args:
        source: The landmarks at the start, `(n, d)`.
        target: Where the landmarks should end, `(n, d)`.
        width: The width of the Gaussian kernel, in units of the points. A few distances of
            neighbouring landmarks are a good choice. A larger width gives a stiffer deformation.
        fidelity: The weight of the match. A larger value matches closer, at the price of a longer
            geodesic.
        solve: The discretisation of the geodesic. The discretisation must allow forward-mode
            derivatives. None stands for RK4 in 32 steps.

    Returns:
        The geodesic with the optimal momenta.

    Raises:
        InputError: `source` and `target` differ in shape, are not points in rows, or are not
            finite.
        InputError: Two landmarks of `source` coincide.
        InputError: `width` or `fidelity` is not a positive number.
        InputTypeError: The landmarks are not real numbers, or are traced.
        SolveError: The optimiser does not find a minimum.
    """
    checks.positive("width", width, _UNITS)
    checks.positive("fidelity", fidelity, "the larger, the closer the match: 1e4, say")
    # optimistix keeps its own numbers in the default precision of JAX.
    source, target = (
        _points(name, p).astype(jnp.result_type(float))
        for name, p in (("source", source), ("target", target))
    )
    target = _like("target", target, source, "source")
    if any(isinstance(points, core.Tracer) for points in (source, target)):
        raise InputTypeError(
            "register() runs an optimiser of its own and is called outside of transformations; "
            "take Geodesic inside"
        )
    gaps = np.linalg.norm(np.asarray(source[:, None] - source), axis=-1) + np.eye(len(source))
    if gaps.min() < 1e-6 * width:
        i, j = np.unravel_index(gaps.argmin(), gaps.shape)
        raise InputError(
            f"landmarks {i} and {j} of the source coincide, so their momenta cannot be told apart; "
            "leave one out"
        )
    flow = Geodesic(source, jnp.zeros_like(source), width, solve)
    eps = float(jnp.finfo(source.dtype).eps)
    values, vectors = jnp.linalg.eigh(gaussian(source, source, width))
    kept = np.asarray(values) > eps**0.5 * float(values[-1])
    basis = vectors[:, kept] / jnp.sqrt(values[kept])
    graphdef, state = nnx.split(flow)
    momenta, failed = _matched(
        graphdef, (state, basis, target, jnp.asarray(fidelity, source.dtype))
    )
    if failed:
        raise SolveError(
            f"no geodesic was found in {_STEPS} steps; take a larger width, a smaller fidelity, or "
            "landmarks that are closer to their targets",
            Status.FAILED,
        )
    flow.momenta.set_value(momenta)
    return flow


@functools.partial(jax.jit, static_argnums=0)
def _matched(graphdef: Any, data: Any) -> tuple[Array, Array]:
    """Return the momenta of the best match, and whether the search failed.

    Momenta basis @ z have the energy |z|^2 / 2. This energy is a sum of squares, as the match is.
    The norm of z suits the optimiser.
    """
    state, basis, target, fidelity = data
    tolerance = 10 * float(jnp.finfo(target.dtype).eps) ** (1 / 3)
    method = optx.LevenbergMarquardt(rtol=tolerance, atol=tolerance)

    def residuals(z: Array, data: Any) -> Any:
        state, basis, target, fidelity = data
        flow = nnx.merge(graphdef, state)
        q, _, _ = flow.layer((flow.landmarks, basis @ z, flow.landmarks[:1]))
        return z, jnp.sqrt(fidelity) * (q - target)

    def closer(z: Array, share: Array) -> tuple[Array, Array]:
        # The search begins with a loose match, whose minimum is wide and near the next minimum.
        args = (state, basis, target, share * fidelity)
        best = optx.least_squares(residuals, method, z, args, max_steps=_STEPS, throw=False)
        return best.value, best.result != optx.RESULTS.successful

    start = jnp.zeros((basis.shape[1], target.shape[1]), target.dtype)
    z, failed = lax.scan(closer, start, jnp.asarray([1e-4, 1e-2, 1.0], target.dtype))
    return basis @ z, failed[-1]


def norms(layer: NeuralODE) -> Float[Array, "steps"]:
    """Return ||V_t|| in the kernel's Hilbert space, in the middle of every step of a fixed grid.

    V_t is the velocity field at depth time t. The norm is constant along a geodesic. For other
    fields, `report` gives the speed of the samples.

    Args:
        layer: A layer whose field is a `KernelField`, or a `neuralflow.DepthVarying` of a
            `KernelField`.

    Returns:
        The norms, `(steps,)`.

    Raises:
        InputTypeError: The field is of another kind, or `layer` is not a layer on a fixed grid.
    """
    return _root(_energies(layer)[0])


def action(layer: NeuralODE) -> Float[Array, ""]:
    """Return the integral of ||V_t||^2 over depth time, the geodesic energy of a layer.

    V_t is the velocity field at depth time t. The midpoint rule on the steps of the fixed grid
    gives the integral. The value serves as a penalty. Among the flows with the same effect on the
    data, the energy is least where ||V_t|| is constant.

    Args:
        layer: A layer on a fixed grid, whose field is a `KernelField` or a
            `neuralflow.DepthVarying` of a `KernelField`.

    Returns:
        The energy, a scalar.

    Raises:
        InputTypeError: The field is of another kind, or `layer` is not a layer on a fixed grid.
    """
    energies, shares = _energies(layer)
    return jnp.sum(jnp.asarray(shares, energies.dtype) * energies) * abs(
        raw(layer.t1) - raw(layer.t0)
    )


def _energies(layer: NeuralODE) -> tuple[Array, np.ndarray]:
    """Return ||V_t||^2 in the middle of every step, and the shares of the steps in the interval."""
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    plan = layer.plan()
    return over_depth(_energy, layer.field, plan.local(0.5), plan.steps), np.abs(
        plan.lengths
    ) / plan.total


def _energy(field: Any) -> Array:
    checks.instance(
        "the field", field, KernelField, "a nf.labs.diffeo.KernelField, or a DepthVarying of one"
    )
    return field.energy()


def _root(square: Array) -> Array:
    """Return the square root, with a derivative of zero at zero.

    A field at rest has a square of zero.
    """
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _points(name: str, value: Any) -> Array:
    """Return points in rows, (n, d), as floating-point numbers, and refuse anything else."""
    value = raw(value)
    if isinstance(value, core.Tracer):
        checks.array(name, value, "n", "d")
    else:
        checks.known_numbers(name, value, "n", "d")
    value = jnp.asarray(value)
    whole = not jnp.issubdtype(value.dtype, jnp.floating)
    return value.astype(jnp.result_type(float)) if whole else value


def _like(name: str, value: Any, points: Array, other: str) -> Array:
    """Return points that belong to other points one by one, in their dtype."""
    value = _points(name, value)
    if value.shape != points.shape:
        raise InputError(
            f"{name} and {other} belong together in order, got shapes {value.shape} and "
            f"{points.shape}"
        )
    return value.astype(points.dtype)
