"""Fields of Gaussian kernels, and the geodesics of diffeomorphisms that they carry (LDDMM, landmarks).

k(x, y) = exp(-|x - y|^2 / (2 width^2)); the norm of v(x) = sum_j k(x, c_j) a_j is ||v||^2 = sum_ij a_i . a_j k(c_i, c_j), that of the kernel's
Hilbert space. Geodesics shoot from initial momenta: q' = dH/dp, p' = -dH/dq, H = ||v||^2 / 2 (Miller, Trouve & Younes
2006, as recalled); with kernels for fields it is the geodesic view of Rousseau & Fablet (arXiv 1805.09585), in our formulation.
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
from jaxtyping import Array, Float

from neuralflow import checks
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
    x: Float[Array, "*batch m d"], y: Float[Array, "*batch n d"], width: Any
) -> Float[Array, "*batch m n"]:
    """The matrix k(x_i, y_j)."""
    gaps = x[..., :, None, :] - y[..., None, :, :]
    return jnp.exp(-jnp.sum(gaps**2, axis=-1) / (2 * width**2))


def _square(q: Array, p: Array, width: float) -> Array:
    """||v||^2 of the field with momenta p at q, (..., n, d) each."""
    return jnp.sum(p * (gaussian(q, q, width) @ p), axis=(-2, -1))


class KernelField(nnx.Module):
    """v(x) = sum_j k(x, c_j) a_j of centres c (n, d), which stay, and momenta a (n, d), which are trained; at rest to begin with.

    In a DepthVarying every depth has momenta of its own: a time-dependent field, whose geodesic energy is `action(layer)`.
    """

    def __init__(self, centres: Any, width: float, momenta: Any = None):
        centres = _points("centres", centres)
        momenta = (
            jnp.zeros_like(centres)
            if momenta is None
            else _like("momenta", momenta, centres, "centres")
        )
        checks.positive("width, the kernel's,", width, _UNITS)
        self.centres = nnx.data(centres)
        self.momenta = nnx.Param(momenta)
        self.width = float(width)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Velocity at x."""
        if x.shape[-1] != self.centres.shape[-1]:
            raise InputError(
                f"points of {self.centres.shape[-1]} coordinates belong to these centres, got x of shape {x.shape}"
            )
        gaps = x[..., None, :] - self.centres.astype(x.dtype)
        weights = jnp.exp(-jnp.sum(gaps**2, axis=-1) / (2 * self.width**2))
        return weights @ self.momenta[...].astype(x.dtype)

    def energy(self) -> Float[Array, ""]:
        """||v||^2 in the kernel's Hilbert space."""
        return _square(self.centres, self.momenta[...], self.width)


@lipschitz_rule.register
def _(module: KernelField) -> Array:
    """||v|| / width, for a unit vector's derivative of the kernel has the norm 1 / width."""
    return _root(module.energy()) / module.width


class _Kinetic(nnx.Module):
    """H(q, p) = sum_ij p_i . p_j k(q_i, q_j) / 2 of landmarks and momenta (..., n, d)."""

    def __init__(self, width: float):
        self.width = width

    def __call__(self, state: Any) -> Array:
        q, p = state
        return _square(q, p, self.width) / 2


class _Shooting(nnx.Module):
    """The geodesic's equations for (q, p, x): landmarks, momenta, and points that are carried along."""

    def __init__(self, width: float):
        self.landmarks = Hamiltonian(_Kinetic(width))

    def __call__(self, state: Any) -> Any:
        q, p, x = state
        kinetic: Any = self.landmarks.energy
        return *self.landmarks((q, p)), gaussian(x, q, kinetic.width) @ p


class Geodesic(nnx.Module):
    """The diffeomorphism at the end of a geodesic, told by landmarks q (n, d) at its start and their momenta p (n, d).

    Called on points x (m, d) it moves them; `invert(y)` takes them back. `width` is that of the Gaussian kernel, in units of x.
    `solve`: how the landmarks' equations are integrated over a depth time of one (default: RK4 in 32 steps).
    The landmarks stay as they are given; the momenta are an nnx.Param.
    """

    def __init__(
        self, landmarks: Any, momenta: Any, width: float, solve: Discretisation | None = None
    ):
        landmarks = _points("landmarks", landmarks)
        momenta = _like("momenta", momenta, landmarks, "landmarks")
        checks.positive("width, the kernel's,", width, _UNITS)
        self.landmarks = nnx.data(landmarks)
        self.momenta = nnx.Param(momenta)
        self.width = float(width)
        self.layer = NeuralODE(
            _Shooting(self.width), FixedGrid(RK4(), steps=32) if solve is None else solve
        )

    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m d"]:
        """Points where the geodesic ends."""
        return self.layer((*self._start, self._own(x)))[2].astype(x.dtype)

    def invert(self, y: Float[Array, "m d"]) -> Float[Array, "m d"]:
        """The points that come to y: the geodesic walked back from its end, to the errors of the solve."""
        q, p, _ = self.layer((*self._start, self._own(y)))
        return self.layer.reverse()((q, p, self._own(y)))[2].astype(y.dtype)

    def _own(self, x: Any) -> Array:
        """Points in the precision of the landmarks."""
        dimension = self.landmarks.shape[1]
        if not isinstance(x, Array | np.ndarray) or x.ndim != 2 or x.shape[1] != dimension:
            raise InputError(
                f"a geodesic moves points in rows, (m, {dimension}), got {getattr(x, 'shape', type(x).__name__)}"
            )
        return jnp.asarray(x, self.landmarks.dtype)

    def path(
        self, depths: Any = None
    ) -> tuple[Float[Array, "times n d"], Float[Array, "times n d"]]:
        """Landmarks and momenta along the geodesic: at `depths` in [0, 1], or at all steps of a fixed grid."""
        q, p, _ = self.layer.trajectory((*self._start, self.landmarks[:1]), depths)
        return q, p

    def hamiltonian(self, q: Any, p: Any) -> Float[Array, "..."]:
        """H at landmarks and momenta (..., n, d); the same all along the geodesic, up to the errors of the solve."""
        return _Kinetic(self.width)((q, p))

    @property
    def energy(self) -> Float[Array, ""]:
        """||v||^2 / 2, the same at every depth."""
        return self.hamiltonian(*self._start)

    @property
    def length(self) -> Float[Array, ""]:
        """The geodesic's length ||v||: the distance of the diffeomorphism from the identity, as long as it is the shortest."""
        return _root(2 * self.energy)

    @property
    def _start(self) -> tuple[Array, Array]:
        return self.landmarks, self.momenta[...]


def register(
    source: Any,
    target: Any,
    width: float,
    *,
    fidelity: float = 1e4,
    solve: Discretisation | None = None,
) -> Geodesic:
    """The geodesic that takes landmarks `source` (n, d) to `target` (n, d), in order: least H + fidelity / 2 * sum |q(1) - target|^2.

    By Levenberg and Marquardt's method on the momenta, to some four digits. A larger `fidelity` matches closer at a longer
    geodesic. `width`: of the kernel, some distances of neighbouring landmarks: the larger, the stiffer the deformation; momenta
    that it cannot tell apart are left out. ValueError for point sets of other shapes or landmarks that coincide, SolveError
    where no minimum is found. Eager; `solve` must allow forward-mode derivatives.
    """
    # optimistix keeps numbers of its own in JAX's default precision.
    source, target = (
        _points(name, p).astype(jnp.result_type(float))
        for name, p in (("source", source), ("target", target))
    )
    target = _like("target", target, source, "source")
    if any(isinstance(points, core.Tracer) for points in (source, target)):
        raise InputTypeError(
            "register() runs an optimiser of its own and is called outside of transformations; take Geodesic inside"
        )
    gaps = np.linalg.norm(np.asarray(source[:, None] - source), axis=-1) + np.eye(len(source))
    if gaps.min() < 1e-6 * width:
        i, j = np.unravel_index(gaps.argmin(), gaps.shape)
        raise InputError(
            f"landmarks {i} and {j} of the source coincide, so their momenta cannot be told apart; leave one out"
        )
    checks.positive("fidelity", fidelity, "the larger, the closer the match: 1e4, say")
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
            f"no geodesic was found in {_STEPS} steps; take a larger width, a smaller fidelity, or landmarks that are closer to their targets",
            Status.FAILED,
        )
    flow.momenta.set_value(momenta)
    return flow


@functools.partial(jax.jit, static_argnums=0)
def _matched(graphdef: Any, data: Any) -> tuple[Array, Array]:
    """The momenta of the best match, and whether there are none.

    Momenta basis @ z have the energy |z|^2 / 2: a sum of squares as the match is one, and a norm that suits the optimiser.
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
        # A loose match first: its minimum is wide, and lies near the next one.
        args = (state, basis, target, share * fidelity)
        best = optx.least_squares(residuals, method, z, args, max_steps=_STEPS, throw=False)
        return best.value, best.result != optx.RESULTS.successful

    start = jnp.zeros((basis.shape[1], target.shape[1]), target.dtype)
    z, failed = lax.scan(closer, start, jnp.asarray([1e-4, 1e-2, 1.0], target.dtype))
    return basis @ z, failed[-1]


def norms(layer: NeuralODE) -> Float[Array, "steps"]:
    """||V_t|| in the kernel's Hilbert space in the middle of every step of a fixed grid; constant along a geodesic.

    The layer's field is a KernelField, or a DepthVarying of one. TypeError for others, whose speed in the mean over samples
    `report` gives.
    """
    return _root(_energies(layer)[0])


def action(layer: NeuralODE) -> Float[Array, ""]:
    """The geodesic energy int ||V_t||^2 dt over depth time of a layer of KernelFields on a fixed grid: a penalty (midpoint rule).

    Among flows that do the same to the data it is least where ||V_t|| is constant.
    """
    energies, shares = _energies(layer)
    return jnp.sum(jnp.asarray(shares, energies.dtype) * energies) * abs(
        raw(layer.t1) - raw(layer.t0)
    )


def _energies(layer: NeuralODE) -> tuple[Array, np.ndarray]:
    """||V_t||^2 in the middle of every step, and the steps' shares of the interval."""
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    plan = layer.plan
    return over_depth(_energy, layer.field, plan.local(0.5), plan.steps), np.abs(
        plan.lengths
    ) / plan.total


def _energy(field: Any) -> Array:
    checks.instance(
        "the field", field, KernelField, "a nf.labs.diffeo.KernelField, or a DepthVarying of one"
    )
    return field.energy()


def _root(square: Array) -> Array:
    """The square root, with a derivative of zero at zero, where a field is at rest."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _points(name: str, value: Any) -> Array:
    if len(np.shape(value)) != 2 or not np.size(value):
        raise InputError(f"{name} are points in rows, (n, d), got shape {np.shape(value)}")
    value = jnp.asarray(value)
    value = (
        value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))
    )
    if not isinstance(value, core.Tracer) and not bool(jnp.isfinite(value).all()):
        raise InputError(f"{name} must be finite")
    return value


def _like(name: str, value: Any, points: Array, other: str) -> Array:
    if jnp.shape(value) != points.shape:
        raise InputError(
            f"{name} and {other} belong together in order, got shapes {jnp.shape(value)} and {points.shape}"
        )
    return jnp.asarray(value, points.dtype)
