"""Adaptive solves: diffrax's loop in normalised depth, and the exact gradient of its accepted steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core, lax
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis, FlatField
from neuralflow.depth.basis import locate_traced
from neuralflow.fields import takes_time
from neuralflow.solve.base import EVERY_STEP, Discretisation, StepMap, out_of_range
from neuralflow.solve.replay import Record, Replay
from neuralflow.solve.results import Solution, Status, all_finite, column, where_ok
from neuralflow.solve.system import System, check_scheme, time_dtype

GradientMethod = Literal["steps", "direct", "continuous"]

_NO_STATE = (
    "and an adaptive solve has no cells that its steps belong to; train with FixedGrid and one step per cell, "
    "or call model.eval() to use the state as it is"
)


class Adaptive(Discretisation):
    """Adaptive steps: the continuous limit of the same weights.

    `scheme`: a diffrax solver with an error estimate. `rtol`, `atol`: tolerances; give arrays to change them inside
    your own jit without a new compilation. `max_steps` counts accepted and rejected ones. Knots of depth-varying
    weights become steps by themselves. `per_sample`: steps are controlled for each sample (axis 0 of x) alone. `ends`: the
    normalised depths between which to walk, all of it by default; arrays are data, and may be differentiated.

    `gradient`: "steps" (default) is the exact reverse-mode gradient of the accepted steps; "direct" differentiates
    through the loop, for forward mode and second derivatives, at the memory of max_steps; "continuous" solves the
    adjoint equation backward, at constant memory, to the tolerance only, once. "steps" is reverse mode, and forward
    mode over it; any other order of differentiation is for "direct".
    """

    planned: ClassVar[bool] = False
    scheme: diffrax.AbstractSolver
    rtol: Any
    atol: Any
    max_steps: int = eqx.field(static=True)
    gradient: GradientMethod = eqx.field(static=True)
    per_sample: bool = eqx.field(static=True)
    ends: Any

    def __init__(
        self,
        scheme: diffrax.AbstractSolver,
        rtol: float | Array = 1e-6,
        atol: float | Array = 1e-6,
        *,
        max_steps: int = 4096,
        gradient: GradientMethod = "steps",
        per_sample: bool = False,
        ends: tuple[Any, Any] = (0.0, 1.0),
    ):
        check_scheme(scheme)
        checks.choice("gradient", gradient, ("steps", "direct", "continuous"))
        name = type(scheme).__name__
        if not isinstance(scheme, diffrax.AbstractAdaptiveSolver) or _is_blind(scheme):
            raise InputError(
                f"{name} has no error estimate to adapt its steps by; use Tsit5(), or FixedGrid({name}(), ...)"
            )
        known = [_check_tolerance(what, value) for what, value in (("rtol", rtol), ("atol", atol))]
        if known == [0, 0]:
            raise InputError(
                "rtol and atol are both zero, so no step could be accepted; give one a positive value"
            )
        checks.whole("max_steps", max_steps)
        checks.choice("per_sample", per_sample, (True, False))
        self.scheme = scheme
        self.rtol, self.atol = rtol, atol
        self.max_steps, self.gradient, self.per_sample = max_steps, gradient, per_sample
        self.ends = _check_ends(ends)

    @property
    def whole(self) -> bool:
        """Whether all of the interval is walked, as far as is known without arrays."""
        return all(isinstance(end, float) for end in self.ends) and self.ends == (0.0, 1.0)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments beside the scheme that are not the defaults, as they would be written."""
        defaults = {"max_steps": 4096, "gradient": "steps", "per_sample": False}
        options: dict[str, Any] = {"rtol": self.rtol, "atol": self.atol}
        options |= {k: getattr(self, k) for k, v in defaults.items() if getattr(self, k) != v}
        return options if self.whole else {**options, "ends": self.ends}

    def plan(self, bases: Sequence[Basis], *, backward: bool = False) -> NoReturn:
        """TypeError: its steps are chosen on the way."""
        raise InputTypeError(
            "an adaptive layer has no steps of its own; take layer.with_solve(nf.FixedGrid(...))"
        )

    def invert(
        self, field: nnx.Module, y: Any, t0: Any, t1: Any, *, backward: bool = False
    ) -> NoReturn:
        """TypeError: there are no steps to solve for their inputs."""
        raise InputTypeError(
            "invert() solves the steps of a fixed grid; an adaptive layer has reverse()"
        )

    def per_step(
        self,
        field: nnx.Module,
        x: Any,
        t0: Any,
        t1: Any,
        function: Callable[[StepMap, Any], Any],
        *,
        backward: bool = False,
    ) -> NoReturn:
        """TypeError: there are no steps of its own."""
        raise InputTypeError(
            "an adaptive layer has no steps of its own; take with_solve(nf.FixedGrid(...))"
        )

    def refined(self, parts: int, scheme: Any = None) -> Adaptive:
        """A tenth of the tolerances for each part beyond the first, down to what the precision knows."""
        least = 10 * float(jnp.finfo(jnp.result_type(float)).eps)

        def to(tolerance):
            return max(float(np.asarray(tolerance)) * 10.0 ** (1 - parts), least)

        return replace(self, scheme=scheme or self.scheme, rtol=to(self.rtol), atol=to(self.atol))

    @property
    def as_data(self) -> Adaptive:
        """Tolerances as arrays, and ends unless they are those of the whole interval."""
        arrays = eqx.tree_at(
            lambda s: (s.rtol, s.atol), self, (jnp.asarray(self.rtol), jnp.asarray(self.atol))
        )
        return (
            arrays
            if self.whole
            else eqx.tree_at(lambda s: s.ends, arrays, tuple(map(jnp.asarray, self.ends)))
        )

    def remedy(self, status: Status, accepted: int, rejected: int) -> str:
        """What to do about a solve that failed."""
        if status == Status.NOT_FINITE:
            return out_of_range(self.scheme, accepted)
        counts, name = f"{accepted} accepted and {rejected} rejected", type(self.scheme).__name__
        if status == Status.MAX_STEPS:
            return (
                f"max_steps={self.max_steps} was reached after {counts} steps of {name}; raise max_steps or the "
                "tolerances; take an implicit scheme such as nf.Kvaerno3() if the field is stiff, a shorter interval if x grows without bound"
            )
        return (
            f"{name} could not go on after {counts} steps; loosen the tolerances or check the field"
        )

    def check(self, field: nnx.Module) -> None:
        """Raises for an unknown form of field."""
        takes_time(field)
        FlatField(field)

    def integrate(
        self,
        field: nnx.Module,
        x: Any,
        t0: Any,
        t1: Any,
        *,
        depths: Any = None,
        backward: bool = False,
    ) -> tuple[Solution, dict[int, Array]]:
        """Carries x through the interval; the field's state stays as it is.

        `depths`: depth times to return states at; each is the end of a step.
        """
        if depths is EVERY_STEP:
            raise InputError(
                "an adaptive solve has no steps of its own to return; ask for depths, such as jnp.linspace(t0, t1, 101)"
            )
        if self.per_sample and any(not leaf.ndim for leaf in jax.tree.leaves(x)):
            raise InputError(
                "per_sample=True controls each sample (axis 0 of x) alone, but x has no axis; add one"
            )
        dtype = time_dtype(x)
        values = FlatField.values(field)
        interval = (jnp.asarray(t0, dtype), jnp.asarray(t1, dtype))
        tolerances = (jnp.asarray(self.rtol, dtype), jnp.asarray(self.atol, dtype))
        loop = _Loop(self, System(field, self.scheme, dtype, _NO_STATE))
        walked = self.ends[::-1] if backward else self.ends
        moving: Any = (
            np.asarray(walked, dtype)
            if self.whole
            else jnp.stack([jnp.asarray(end, dtype) for end in walked])
        )
        ends = lax.stop_gradient(moving)
        # Zeros, whose derivatives are those of where the walk starts and stops.
        shifts = (moving - ends) * (interval[1] - interval[0])
        if depths is None:
            stops: Any = None
        else:
            stops, reached = _in_order(
                lax.stop_gradient((depths - interval[0]) / (interval[1] - interval[0])), ends
            )

        def one(x):
            x = x if self.whole else loop.slide_one(values, x, interval, ends[0], -shifts[0])
            states, count = loop.states(values, x, interval, tolerances, ends, stops)
            if stops is None:
                return states if self.whole else loop.slide_one(
                    values, states, interval, ends[1], shifts[1]
                ), count
            delta = depths - (interval[0] + stops * (interval[1] - interval[0]))
            return loop.slide(
                values, states, interval, stops, delta - lax.stop_gradient(delta)
            ), count

        if self.per_sample:
            # Each sample keeps a batch axis of one: fields expect it.
            alone = jax.tree.map(lambda a: a[:, None], x)
            states, count = jax.vmap(one)(alone)
            axis = 1 if stops is None else 2
            states = jax.tree.map(lambda a: jnp.squeeze(a, axis), states)
            finite = jax.vmap(all_finite)(states)
            spread = column
        else:
            states, count = one(x)
            finite = all_finite(states)

            def spread(mask: Array, like: Array) -> Array:
                return mask

        status = jnp.where((count.status == 0) & ~finite, Status.NOT_FINITE, count.status)
        if not self.whole:
            low, high = ends[::-1] if backward else ends
            status = jnp.where((low >= 0) & (low <= high) & (high <= 1), status, Status.BAD_DEPTHS)
        states = jax.tree.map(lambda a: where_ok(spread(status, a), a), states)
        if self.per_sample and stops is not None:
            states = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), states)
        if stops is not None:
            status = jnp.where((status == 0) & ~reached.all(), Status.BAD_DEPTHS, status)
            states = jax.tree.map(lambda a: jnp.where(column(reached, a), a, jnp.nan), states)
        last = (
            interval[0 if backward else 1]
            if self.whole
            else interval[0] + ends[1] * (interval[1] - interval[0])
        )
        at = last if depths is None else depths
        return Solution(states, at, status, count.evaluations, count.accepted, count.rejected), {}


class _Count(NamedTuple):
    status: Array
    evaluations: Array
    accepted: Array
    rejected: Array


class _Loop:
    """diffrax's loop over one system; everything static lives here, arrays are handed in."""

    def __init__(self, solve: Adaptive, system: System):
        self.system, self.scheme = system, solve.scheme
        self.max_steps, self.gradient = solve.max_steps, solve.gradient
        # States are kept at every `every`-th step and recomputed in between: the least memory for one recomputation.
        self.every = int(np.ceil(np.sqrt(solve.max_steps)))
        inner = [(basis, basis.knots[1:-1]) for basis in system.multi]
        self.jumps = _union([knots for basis, knots in inner if basis.smoothness < 0])
        self.kinks = _union([knots for basis, knots in inner if basis.smoothness >= 0])

    def states(
        self, values: Any, x: Any, interval: Any, tolerances: Any, ends: Array, stops: Any
    ) -> tuple[Any, _Count]:
        """The state at every stop, or at the end where there is none, with the chosen gradient."""
        wanted = (values, x, interval)
        options = (tolerances, ends, stops)
        if self.gradient == "direct":
            return self._out(self._diffeqsolve(wanted, options, diffrax.DirectAdjoint()), stops)
        if self.gradient == "continuous":
            return self._out(self._diffeqsolve(wanted, options, diffrax.BacksolveAdjoint()), stops)
        return self._replayed(wanted, options)

    def slide(self, values: Any, states: Any, interval: Any, stops: Array, delta: Array) -> Any:
        """The states, whose derivative with respect to their depth time is the velocity there (`delta` is zero)."""

        @jax.custom_jvp
        def moved(values, states, interval, stops, delta):
            return states

        def rule(primals, tangents):
            values, states, interval, stops, _ = primals
            tangent = tangents[4]
            out = jax.tree.map(_instantiate, tangents[1], states)
            if not isinstance(tangent, jax.custom_derivatives.SymbolicZero):
                velocity = jax.vmap(lambda s, x: self._velocity(s, x, values, interval))(
                    stops, states
                )

                def scale(d, v):
                    return d + v * tangent.reshape(tangent.shape + (1,) * (v.ndim - 1))

                out = jax.tree.map(scale, out, velocity)
            return states, out

        moved.defjvp(rule, symbolic_zeros=True)
        return moved(values, states, interval, stops, delta)

    def slide_one(self, values: Any, state: Any, interval: Any, s: Array, delta: Array) -> Any:
        """`slide` for one state."""
        states = jax.tree.map(lambda a: a[None], state)
        return jax.tree.map(
            lambda a: a[0], self.slide(values, states, interval, s[None], delta[None])
        )

    def _velocity(self, s: Array, x: Any, values: Any, interval: Any) -> Any:
        """f(x, t) at normalised depth s, in depth time."""
        system = self.system
        moving, fixed = system.split(values)
        cells, where = {}, []
        for basis in system.flat.bases:
            cell, local = locate_traced(basis, s, jnp.asarray(basis.knots, s.dtype))
            cells[basis] = cell
            where.append(local)
        windows = system.windows(moving, cells)
        return system.velocity(
            windows, fixed, where, x, interval[0] + s * (interval[1] - interval[0]), None
        )[0]

    def _diffeqsolve(
        self, wanted: Any, options: Any, adjoint: Any, saveat: Any = None
    ) -> diffrax.Solution:
        values, x, interval = wanted
        tolerances, ends, stops = options
        dtype = self.system.dtype

        def vector_field(s, x, args):
            values, interval = args
            span = interval[1] - interval[0]
            return jax.tree.map(lambda v: span * v, self._velocity(s, x, values, interval))

        controller: Any = diffrax.PIDController(rtol=tolerances[0], atol=tolerances[1])
        steps = [jnp.asarray(self.kinks, dtype)] if len(self.kinks) else []
        steps += [] if stops is None else [stops]
        if steps or len(self.jumps):
            controller = diffrax.ClipStepSizeController(
                controller,
                step_ts=jnp.concatenate(steps) if steps else None,
                jump_ts=jnp.asarray(self.jumps, dtype) if len(self.jumps) else None,
            )
        if saveat is None:
            saveat = diffrax.SaveAt(t1=True) if stops is None else diffrax.SaveAt(ts=stops)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),
            self.scheme,
            ends[0],
            ends[1],
            None,
            x,
            (values, interval),
            saveat=saveat,
            stepsize_controller=controller,
            adjoint=adjoint,
            max_steps=self.max_steps,
            throw=False,
        )

    def _out(self, solution: diffrax.Solution, stops: Any) -> tuple[Any, _Count]:
        """States and counts of a solve that saved at the stops, or at the end."""
        states = solution.ys if stops is not None else jax.tree.map(lambda a: a[0], solution.ys)
        return states, self._count(solution)

    def _count(self, solution: diffrax.Solution) -> _Count:
        okay = solution.result == diffrax.RESULTS.successful
        exhausted = solution.result == diffrax.RESULTS.max_steps_reached
        # Every step was refused, however short: the velocity is not finite where the solve begins.
        stuck = jnp.where(
            solution.stats["num_accepted_steps"] == 0, Status.NOT_FINITE, Status.MAX_STEPS
        )
        status = jnp.where(okay, Status.SUCCESSFUL, jnp.where(exhausted, stuck, Status.FAILED))
        stats = {
            name: jnp.asarray(solution.stats[name])
            for name in ("num_accepted_steps", "num_rejected_steps")
        }
        accepted, rejected = stats["num_accepted_steps"], stats["num_rejected_steps"]
        stages, reuses = self.system.stages()
        # A stage that is handed on is made anew at the start and at jumps.
        evaluations = (accepted + rejected) * (stages - reuses) + reuses * (1 + len(self.jumps))
        return _Count(status, evaluations, accepted, rejected)

    def _replayed(self, wanted: Any, options: Any) -> tuple[Any, _Count]:
        """The solve with the exact gradient of its accepted steps, of what is differentiated and nothing else."""
        forward = diffrax.ForwardMode()

        @eqx.filter_custom_vjp
        def solve(wanted, options):
            return self._out(self._diffeqsolve(wanted, options, forward), options[2])

        @solve.def_fwd
        def solve_forward(perturbed, wanted, options):
            stops = options[2]
            end = diffrax.SubSaveAt(t1=True) if stops is None else diffrax.SubSaveAt(ts=stops)
            edges = diffrax.SubSaveAt(steps=1, fn=lambda s, y, args: jnp.zeros(0))
            kept = diffrax.SubSaveAt(steps=self.every)
            saveat = diffrax.SaveAt(subs=(end, edges, kept))
            solution: Any = self._diffeqsolve(wanted, options, forward, saveat)
            states = (
                solution.ys[0]
                if stops is not None
                else jax.tree.map(lambda a: a[0], solution.ys[0])
            )
            count = self._count(solution)
            return (states, count), (solution.ts[1], solution.ys[2], count.accepted)

        @solve.def_bwd
        def solve_backward(residuals, cotangents, perturbed, wanted, options):
            saved, kept, accepted = residuals
            values, x, interval = wanted
            _, ends, stops = options
            record = Record(
                values, x, interval, stops, self._edges(ends[:1], saved), kept, accepted
            )

            def zeros(states, ct):
                return jnp.zeros_like(states) if ct is None else ct

            like = (
                x
                if stops is None
                else jax.tree.map(lambda a: jnp.zeros((len(stops), *a.shape), a.dtype), x)
            )
            cotangent = jax.tree.map(zeros, like, cotangents[0], is_leaf=lambda leaf: leaf is None)
            changes = [any(jax.tree.leaves(part)) for part in perturbed]
            return Replay(self.system, record, self.every).cotangents(
                cotangent, changes[0], changes[2]
            )

        return solve(wanted, lax.stop_gradient(options))

    def _edges(self, start: Array, saved: Array) -> Array:
        """The ends of the accepted steps; diffrax leaves one rounding around a jump, here it is the knot again."""
        edges = jnp.concatenate([start, saved])
        if len(self.jumps):
            knots = jnp.asarray(self.jumps, saved.dtype)
            nearest = knots[jnp.argmin(jnp.abs(edges[:, None] - knots), axis=1)]
            edges = jnp.where(
                jnp.abs(edges - nearest) <= 4 * jnp.finfo(saved.dtype).eps, nearest, edges
            )
        return edges


def _is_blind(scheme: Any) -> bool:
    """Whether a Runge-Kutta scheme has an error estimate of zeros: none."""
    tableau = scheme.tableau if isinstance(scheme, diffrax.AbstractRungeKutta) else None
    return isinstance(tableau, diffrax.ButcherTableau) and not tableau.b_error.any()


def _in_order(shares: Array, ends: Array) -> tuple[Array, Array]:
    """Normalised depths that a walk can stop at one after the other, and which of them are the ones asked for."""
    inside = jnp.clip(jnp.nan_to_num(shares), jnp.min(ends), jnp.max(ends))
    sign = jnp.where(ends[1] < ends[0], -1, 1).astype(inside.dtype)
    stops = sign * lax.cummax(sign * inside)
    return stops, jnp.abs(stops - shares) <= 16 * jnp.finfo(shares.dtype).eps


def _check_ends(ends: Any) -> tuple[Any, Any]:
    """The two ends; ValueError where they are known and are not increasing depths in [0, 1]."""
    start, stop = ends
    known = not isinstance(start, core.Tracer) and not isinstance(stop, core.Tracer)
    if known and not 0 <= float(start) <= float(stop) <= 1:
        raise InputError(
            f"ends are two increasing normalised depths in [0, 1], got {start} and {stop}"
        )
    return start, stop


def _check_tolerance(name: str, value: Any) -> float | None:
    """The tolerance where it is known, or None for a traced one."""
    if isinstance(value, core.Tracer):
        return None
    if isinstance(value, str | bool) or np.ndim(value) or not 0 <= float(value) < np.inf:
        raise InputError(f"{name} must be one finite number >= 0, got {value!r}")
    return float(value)


def _union(knots: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(knots)) if knots else np.zeros(0)


def _instantiate(tangent: Any, like: Array) -> Array:
    return (
        jnp.zeros_like(like)
        if isinstance(tangent, jax.custom_derivatives.SymbolicZero)
        else tangent
    )
