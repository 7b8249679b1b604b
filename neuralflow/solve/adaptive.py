"""Adaptive solves: diffrax's loop over normalised depth.

The three gradients of an adaptive solve are chosen here. `replay` holds the exact gradient of the
accepted steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractSolver
from flax import nnx
from jax import core, lax
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis, FlatField
from neuralflow.depth.basis import locate_traced
from neuralflow.fields import takes_time
from neuralflow.schemes.implicit import with_derivatives
from neuralflow.schemes.network import check_scheme, controlled
from neuralflow.schemes.watched import Watched, root_mean_square, sample_norm
from neuralflow.solve.base import Discretisation, EveryStep, StepMap, check_ends, out_of_range
from neuralflow.solve.context import check_axes, leaf_axes
from neuralflow.solve.modes import forward_only, reverse_only
from neuralflow.solve.replay import Kept, Record, Replay
from neuralflow.solve.results import Solution, Status, all_finite, column, failing, instantiated
from neuralflow.solve.system import System, check_single, time_dtype

GradientMethod = Literal["steps", "direct", "continuous"]
"""The names of the gradients of an adaptive solve; see `Adaptive`."""

Output = Literal["interpolated", "stepped"]
"""The names of the ways to states at given depths; see `Adaptive`."""

_NO_STATE = (
    "and an adaptive solve has no cells that its steps belong to; train with FixedGrid and one "
    "step per cell, or call model.eval() to use the state as it is"
)

# The edges of steps that a gradient keeps, at most: 4 GiB in float64, and twice that in the loop.
_MOST_EDGES = 2**29

_TWICE = (
    'a gradient of a gradient does not pass through gradient="steps"; take gradient="direct", or '
    "forward mode over reverse mode as jax.hessian does"
)


class Adaptive(Discretisation):
    """Walk through depth in adaptive steps: the continuous limit of the same weights.

    The solve places the edge of a step at every knot of weights that vary with depth. Steps that a
    walk chooses are not known before the walk, so `plan`, `invert` and `per_step` raise an error.
    `neuralflow.solve.Discretisation` has what both kinds of discretisation share.

    An error estimate is a small difference of velocities. Accelerators multiply matrices of float32
    in fewer digits by default, and the estimate would measure that. So the field multiplies in all
    digits of float32 here, unless the field itself or `jax.default_matmul_precision` names another
    precision.

    Args:
        scheme: A diffrax solver with an error estimate, an instance such as `neuralflow.Tsit5()`.
        rtol: The relative tolerance of the error of a step. Give an array to change the tolerance
            inside your own jit without a new compilation.
        atol: The absolute tolerance of the error of a step, in the unit of the state. Give an array
            for the same purpose as with `rtol`.
        max_steps: The largest number of steps, accepted and rejected ones together. The gradient
            "steps" keeps the edges of as many steps, and at most 4 sqrt(max_steps) states, which is
            161 states with the default. Under per-sample control, it keeps as much for each sample.
            Up to sqrt(max_steps) steps, and up to 128 with the default, no step is computed again
            for the gradient; of more steps, at most each once.
        gradient: The name of the gradient. "steps" is the exact reverse-mode gradient of the
            accepted steps. "steps" works in reverse mode, and in forward mode over reverse mode.
            "direct" differentiates through the loop, at the memory of `max_steps` steps. "direct"
            works for every other order of differentiation, such as forward mode and second
            derivatives. An error of "steps" names "direct", but under `jax.jacfwd` of a function
            that is compiled, JAX speaks first, of forward mode and a `custom_vjp` function.
            "continuous" solves the adjoint equation backward, at constant memory. The
            gradient of "continuous" is accurate to the tolerance only, and works once, not for
            second derivatives.
        per_sample: Whether to control the steps of each sample alone. Axis 0 of x counts the
            samples. Without it, all samples share their steps. Under a `jax.vmap` over samples,
            each has steps of its own anyway: leave it out there. Entries that only pad a state take
            part in the error estimate: let the field return zeros for them.
        context_axes: Which arrays of a context are split into samples under per-sample control: 0
            for an array whose axis 0 counts the samples, None for an array that the samples share.
            One value serves all arrays. A pytree of values serves the parts of a context, as
            `in_axes` of `jax.vmap` does.
        output: The name of the way to states at given depths. "interpolated" takes the states from
            the interpolant of the scheme inside each step. The steps do not depend on the depths
            then. Between the edges of steps, the interpolant can be less accurate than the
            tolerances: at tolerances of 1e-5, the largest errors on four fields were 1e-5 to 5e-4
            with Tsit5 and 2e-5 to 2e-4 with Dopri8, where the errors of the final states were 3e-7
            to 4e-4 and 2e-8 to 2e-4 (`python -m experiments.benchmarks.interpolation`). "stepped"
            ends a step at every depth, which makes each state as accurate as a final state, and
            costs a step for each depth.
        ends: The two normalised depths between which to walk, by default the whole interval. Arrays
            are data, and may be differentiated.

    Raises:
        InputError: The scheme has no error estimate. `max_steps` is 2^31 or more. A tolerance is
            not one finite number >= 0, or both tolerances are zero. Another argument lies outside
            its range.
        InputTypeError: `scheme` is not an instance of a diffrax solver, `max_steps` is not a whole
            number, or a tolerance or an end is not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
        >>> ode = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), rtol=1e-4, atol=1e-4))
        >>> solution = ode.solve(jnp.ones((1, 2)))
        >>> print(solution.states.round(2), solution.status == nf.Status.SUCCESSFUL)
        [[2.72 2.72]] True
    """

    planned: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    scheme: diffrax.AbstractSolver
    rtol: Any
    atol: Any
    max_steps: int = eqx.field(static=True)
    gradient: GradientMethod = eqx.field(static=True)
    per_sample: bool = eqx.field(static=True)
    context_axes: Any
    output: Output = eqx.field(static=True)
    ends: Any

    def __init__(
        self,
        scheme: diffrax.AbstractSolver,
        rtol: Real = 1e-6,
        atol: Real = 1e-6,
        *,
        max_steps: int = 4096,
        gradient: GradientMethod = "steps",
        per_sample: bool = False,
        context_axes: Any = 0,
        output: Output = "interpolated",
        ends: tuple[Real, Real] = (0.0, 1.0),
    ):
        check_scheme(scheme)
        checks.choice("gradient", gradient, get_args(GradientMethod))
        name = type(scheme).__name__
        if not isinstance(scheme, diffrax.AbstractAdaptiveSolver) or _is_blind(scheme):
            raise InputError(
                f"{name} has no error estimate to adapt its steps by; use Tsit5(), or "
                f"FixedGrid({name}(), ...)"
            )
        checks.number("rtol", rtol, least=0)
        checks.number("atol", atol, least=0)
        if not any(isinstance(t, core.Tracer) or t > 0 for t in map(checks.known, (rtol, atol))):
            raise InputError(
                "rtol and atol are both zero, so no step could be accepted; give one a positive "
                "value"
            )
        checks.whole("max_steps", max_steps, most=2**31 - 1)  # int32 counts the steps
        checks.choice("per_sample", per_sample, (True, False))
        checks.choice("output", output, get_args(Output))
        check_axes(context_axes)
        self.scheme = scheme
        self.rtol, self.atol = rtol, atol
        self.max_steps, self.gradient, self.per_sample = int(max_steps), gradient, per_sample
        self.context_axes, self.output = context_axes, output
        self.ends = check_ends(ends)

    @property
    def real(self) -> bool:
        """Whether states must be real, as those of diffrax's adjoint equation must."""
        return super().real or self.gradient == "continuous"

    @property
    def whole(self) -> bool:
        """Whether both ends are Python floats and the walk covers the whole interval.

        An end that is an array gives False, since its value may be traced.
        """
        return all(isinstance(end, float) for end in self.ends) and self.ends == (0.0, 1.0)

    @property
    def forward_mode(self) -> str:
        """The gradient to take for forward-mode derivatives; empty if the solve has them."""
        return "" if self.gradient == "direct" else 'gradient="direct"'

    @property
    def options(self) -> dict[str, Any]:
        """The arguments beside the scheme, by name, as a user would write them.

        The tolerances are always there. Other arguments that have their default value are left out.
        """
        defaults = {
            "max_steps": 4096,
            "gradient": "steps",
            "per_sample": False,
            "context_axes": 0,
            "output": "interpolated",
        }
        options: dict[str, Any] = {"rtol": self.rtol, "atol": self.atol}
        options |= {k: getattr(self, k) for k, v in defaults.items() if getattr(self, k) != v}
        return options if self.whole else {**options, "ends": self.ends}

    def plan(self, bases: Sequence[Basis], *, backward: bool = False) -> NoReturn:
        """Refuse, since an adaptive solve chooses its steps on the way.

        Args:
            bases: Not used.
            backward: Not used.

        Raises:
            InputTypeError: Always.
        """
        raise InputTypeError(
            "an adaptive layer has no steps of its own; take layer.with_solve(nf.FixedGrid(...))"
        )

    def invert(
        self,
        field: nnx.Module,
        y: PyTree,
        t0: Real,
        t1: Real,
        *,
        context: PyTree = None,
        backward: bool = False,
    ) -> NoReturn:
        """Refuse, since an adaptive solve has no fixed steps to solve for their inputs.

        Args:
            field: Not used.
            y: Not used.
            t0: Not used.
            t1: Not used.
            context: Not used.
            backward: Not used.

        Raises:
            InputTypeError: Always.
        """
        raise InputTypeError(
            "invert() solves the steps of a fixed grid; an adaptive layer has reverse()"
        )

    def per_step(
        self,
        field: nnx.Module,
        x: PyTree,
        t0: Real,
        t1: Real,
        function: Callable[[StepMap, PyTree], PyTree],
        *,
        context: PyTree = None,
        backward: bool = False,
    ) -> NoReturn:
        """Refuse, since an adaptive solve has no steps of its own.

        Args:
            field: Not used.
            x: Not used.
            t0: Not used.
            t1: Not used.
            function: Not used.
            context: Not used.
            backward: Not used.

        Raises:
            InputTypeError: Always.
        """
        raise InputTypeError(
            "an adaptive layer has no steps of its own; take with_solve(nf.FixedGrid(...))"
        )

    def refined(self, parts: int, scheme: AbstractSolver | None = None) -> Adaptive:
        """Return the same walk with smaller tolerances.

        Args:
            parts: How many times as fine the walk is. Each part beyond the first divides both
                tolerances by ten. No tolerance becomes smaller than ten roundings of JAX's default
                float.
            scheme: The scheme of the new walk. None keeps the present scheme.

        Returns:
            The finer solve.

        Raises:
            InputError: `parts` is less than one.
            InputTypeError: `parts` is not a whole number, or `scheme` is not a diffrax solver.
        """
        checks.whole("parts", parts)
        least = 10 * float(jnp.finfo(jnp.result_type(float)).eps)

        def to(tolerance):
            return max(float(np.asarray(tolerance)) * 10.0 ** (1 - parts), least)

        return replace(
            self,
            scheme=self.scheme if scheme is None else scheme,
            rtol=to(self.rtol),
            atol=to(self.atol),
        )

    @property
    def as_data(self) -> Adaptive:
        """The same solve with arrays for its tolerances, and for ends inside the interval.

        Ends of the whole interval stay Python floats.
        """
        arrays = eqx.tree_at(
            lambda s: (s.rtol, s.atol), self, (jnp.asarray(self.rtol), jnp.asarray(self.atol))
        )
        return (
            arrays
            if self.whole
            else eqx.tree_at(lambda s: s.ends, arrays, tuple(map(jnp.asarray, self.ends)))
        )

    def remedy(self, status: Status, accepted: int, rejected: int) -> str:
        """Say what to do about a solve that failed.

        Args:
            status: The status of the failed solve.
            accepted: The number of accepted steps.
            rejected: The number of rejected steps.

        Returns:
            The text of the remedy.
        """
        if status == Status.NOT_FINITE:
            return out_of_range(self.scheme, accepted)
        counts, name = f"{accepted} accepted and {rejected} rejected", type(self.scheme).__name__
        if status == Status.MAX_STEPS:
            check = "" if accepted else "check that field(x) is finite; "
            return (
                f"max_steps={self.max_steps} was reached after {counts} steps of {name}; raise "
                f"max_steps or the tolerances; {check}take an implicit scheme such as "
                "nf.Kvaerno3() if the field is stiff, a shorter interval if x grows without bound"
            )
        return (
            f"{name} could not go on after {counts} steps, where no step was short enough; check "
            "that the field is finite, loosen the tolerances, or take a shorter interval if x "
            "grows without bound"
        )

    def check(self, field: nnx.Module) -> None:
        """Refuse a field that no adaptive solve can carry.

        Args:
            field: The velocity field.

        Raises:
            InputError: The field holds state that no solve can carry.
            InputTypeError: The field cannot be called as f(x) or f(x, t).
        """
        takes_time(field)
        FlatField(field)

    def integrate(
        self,
        field: nnx.Module,
        x: PyTree,
        t0: Real,
        t1: Real,
        *,
        context: PyTree = None,
        depths: Array | EveryStep | None = None,
        backward: bool = False,
    ) -> tuple[Solution, dict[int, Array]]:
        """Carry a state through the interval in adaptive steps.

        The field's state stays as it is. A field that changes its state is refused.

        Args:
            field: The velocity field.
            x: The state where the walk starts, a pytree of arrays.
            t0: The depth time that belongs to normalised depth 0.
            t1: The depth time that belongs to normalised depth 1.
            context: The context that the field is called with, a pytree of arrays, or None.
            depths: The depth times at which to return states, shape `(m,)`, in the order of the
                walk. None asks for the final state alone.
            backward: Whether to walk from the later end of the walk to the earlier one.

        Returns:
            The solution, and an empty mapping, since the field's state does not change.

        Raises:
            InputError: `depths` is `neuralflow.solve.EVERY_STEP`; or `per_sample` is True and x has
                no axis, or the context does not fit `context_axes`; or the field changes its state.
                In a gradient, the record of `max_steps` steps is too large. Or states at depths are
                asked for of x whose sizes are symbols of `jax.export`.
        """
        if isinstance(depths, EveryStep):
            raise InputError(
                "an adaptive solve has no steps of its own to return; ask for depths, such as "
                "jnp.linspace(t0, t1, 101)"
            )
        if self.per_sample and any(not leaf.ndim for leaf in jax.tree.leaves(x)):
            raise InputError(
                "per_sample=True controls each sample (axis 0 of x) alone, but x has no axis; "
                "add one"
            )
        if self.per_sample and len({leaf.shape[0] for leaf in jax.tree.leaves(x)}) != 1:
            raise InputError(
                "per_sample=True splits x along axis 0, whose length must be the same in all "
                f"arrays of x, got the shapes {jax.tree.map(jnp.shape, x)}"
            )
        sizes = [size for leaf in jax.tree.leaves(x) for size in leaf.shape]
        if depths is not None and not all(isinstance(size, int) for size in sizes):
            # JAX drops diffrax's questions to the host, see `_Stopping`, where all sizes are known.
            raise InputError(
                "an adaptive solve with states at depths is exported for x of known sizes, got the "
                f"shape {jax.tree.map(jnp.shape, x)}; give a number of samples, or take FixedGrid"
            )
        dtype = time_dtype(x)
        check_single(x, "the error estimate of an adaptive solve needs")
        interval = (jnp.asarray(t0, dtype), jnp.asarray(t1, dtype))
        tolerances = (jnp.asarray(self.rtol, dtype), jnp.asarray(self.atol, dtype))
        samples = jax.tree.leaves(x)[0].shape[0] if self.per_sample else 1
        loop = _Loop(
            self, System(field, self.scheme, dtype, _NO_STATE, context, precise=True), samples
        )
        weights, conditions = FlatField.values(field), jax.tree.leaves(context)
        walked = self.ends[::-1] if backward else self.ends
        moving: Any = (
            np.asarray(walked, dtype)
            if self.whole
            else jnp.stack([jnp.asarray(end, dtype) for end in walked])
        )
        ends = lax.stop_gradient(moving)
        # The shifts are zeros. Their derivatives are those of the depths where the walk starts and
        # stops.
        shifts = (moving - ends) * (interval[1] - interval[0])
        stops: Any = None
        reached: Any = None
        if depths is not None:
            stops, reached = _in_order((depths - interval[0]) / (interval[1] - interval[0]), ends)
            if not loop.differentiates_stops:
                stops = lax.stop_gradient(stops)

        low, high = ends[::-1] if backward else ends
        beyond = False if self.whole else ~((low >= 0) & (low <= high) & (high <= 1))

        def one(x, conditions):
            values = [*weights, *conditions]
            begin = x if self.whole else loop.slide_one(values, x, interval, ends[0], -shifts[0])
            states, count = loop.states(values, begin, interval, tolerances, ends, stops)
            if stops is not None and not loop.differentiates_stops:
                delta = depths - (interval[0] + stops * (interval[1] - interval[0]))
                delta = delta - lax.stop_gradient(delta)
                states = loop.slide(values, states, interval, stops, delta)
            if stops is not None:
                states = jax.tree.map(lambda a: jnp.where(column(reached, a), a, jnp.nan), states)
            elif not self.whole:
                states = loop.slide_one(values, states, interval, ends[1], shifts[1])
            inputs = (values, x, interval, moving, depths)
            return failing((count.status != 0) | beyond, states, inputs), count

        if self.per_sample:
            # Each sample keeps a batch axis of length one, which fields expect.
            alone = jax.tree.map(lambda a: a[:, None], x)
            axes = leaf_axes(self.context_axes, context, samples)
            pairs = zip(conditions, axes, strict=True)
            conditions = [c if axis is None else c[:, None] for c, axis in pairs]
            states, count = jax.vmap(one, in_axes=(0, axes))(alone, conditions)
            axis = 1 if stops is None else 2
            states = jax.tree.map(lambda a: jnp.squeeze(a, axis), states)
            finite = jax.vmap(all_finite)(states)
            if stops is not None:
                states = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), states)
        else:
            states, count = one(x, conditions)
            finite = all_finite(states)
        missed = beyond if stops is None else beyond | ~reached.all()
        status = jnp.where((count.status == 0) & ~finite, Status.NOT_FINITE, count.status)
        status = jnp.where(missed & ((count.status == 0) | beyond), Status.BAD_DEPTHS, status)
        last = (
            interval[0 if backward else 1]
            if self.whole
            else interval[0] + ends[1] * (interval[1] - interval[0])
        )
        at = last if depths is None else depths
        return Solution(states, at, status, count.evaluations, count.accepted, count.rejected), {}


class _Count(NamedTuple):
    """The status and the counts of one solve, with the names of `Solution`."""

    status: Array
    evaluations: Array
    accepted: Array
    rejected: Array


class _Loop:
    """diffrax's loop over one system.

    The object holds everything static. Arrays are handed to its methods. `samples` is the number of
    loops that run side by side.
    """

    def __init__(self, solve: Adaptive, system: System, samples: int):
        self.samples = samples
        self.system, self.scheme = system, solve.scheme
        self.max_steps, self.gradient = solve.max_steps, solve.gradient
        self.stepped = solve.output == "stepped"
        # The interpolant's own derivative belongs to what was computed. The adjoint equation and a
        # step that ends at a depth have the velocity there instead.
        self.differentiates_stops = not self.stepped and solve.gradient != "continuous"
        self.kept = Kept(solve.max_steps)
        inner = [(basis, basis.knots[1:-1]) for basis in system.multi]
        self.jumps = _union([knots for basis, knots in inner if basis.smoothness < 0])
        self.kinks = _union([knots for basis, knots in inner if basis.smoothness >= 0])

    def states(
        self, values: PyTree, x: PyTree, interval: Any, tolerances: Any, ends: Array, stops: Any
    ) -> tuple[Any, _Count]:
        """Return the state at every stop, or at the end if there are no stops, and the counts.

        The states have the chosen gradient.
        """
        wanted = (values, x, interval, stops)
        options = (tolerances, ends)
        if self.gradient == "direct":
            return self._out(self._diffeqsolve(wanted, options, diffrax.DirectAdjoint()), stops)
        wanted = reverse_only(
            wanted,
            f'forward-mode derivatives do not pass through gradient="{self.gradient}"; '
            'take gradient="direct"',
        )
        if self.gradient == "continuous":
            return self._out(self._diffeqsolve(wanted, options, diffrax.BacksolveAdjoint()), stops)
        return self._replayed(wanted, options)

    def slide(
        self, values: PyTree, states: PyTree, interval: Any, stops: Array, delta: Array
    ) -> Any:
        """Return the states, with a derivative with respect to their depth times.

        The derivative is the velocity at the state. `delta` is zero, and carries the derivative of
        the depth time.
        """

        @jax.custom_jvp
        def moved(values, states, interval, stops, delta):
            return states

        def rule(primals, tangents):
            values, states, interval, stops, _ = primals
            tangent = tangents[4]
            out = jax.tree.map(instantiated, tangents[1], states)
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

    def slide_one(
        self, values: PyTree, state: PyTree, interval: Any, s: Array, delta: Array
    ) -> Any:
        """Do for one state what `slide` does for several."""
        states = jax.tree.map(lambda a: a[None], state)
        return jax.tree.map(
            lambda a: a[0], self.slide(values, states, interval, s[None], delta[None])
        )

    def _velocity(self, s: Array, x: PyTree, values: PyTree, interval: Any) -> Any:
        """Return the velocity f(x, t) per unit of depth time, at normalised depth s."""
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
        self, wanted: Any, options: Any, adjoint: diffrax.AbstractAdjoint
    ) -> diffrax.Solution:
        """Run diffrax's loop in normalised depth, with an edge of a step at every knot."""
        values, x, interval, stops = wanted
        tolerances, ends = options
        dtype = self.system.dtype

        def vector_field(s, x, args):
            values, interval = args
            span = interval[1] - interval[0]
            return jax.tree.map(lambda v: span * v, self._velocity(s, x, values, interval))

        norm = sample_norm if isinstance(self.scheme, Watched) else root_mean_square
        rtol, atol = tolerances
        controller: Any = _Ending(rtol, atol, norm)
        scheme = controlled(self.scheme, rtol, atol, norm)
        if self.gradient == "direct":
            scheme = with_derivatives(scheme)
        steps = [jnp.asarray(self.kinks, dtype)] if len(self.kinks) else []
        steps += [lax.stop_gradient(stops)] if self.stepped and stops is not None else []
        if steps or len(self.jumps):
            controller = diffrax.ClipStepSizeController(
                controller,
                step_ts=jnp.concatenate(steps) if steps else None,
                jump_ts=jnp.asarray(self.jumps, dtype) if len(self.jumps) else None,
            )
        saveat = diffrax.SaveAt(t1=True) if stops is None else diffrax.SaveAt(ts=stops)
        if stops is not None:
            adjoint = _Stopping(adjoint, jnp.where(ends[0] < ends[1], 1, -1) * stops)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),
            scheme,
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
        """Return the states and counts of a solve that saved at the stops, or at the end."""
        states = solution.ys if stops is not None else jax.tree.map(lambda a: a[0], solution.ys)
        return states, self._count(solution)

    def _count(self, solution: diffrax.Solution) -> _Count:
        """Return the status and the counts of a solve."""
        okay = solution.result == diffrax.RESULTS.successful
        exhausted = solution.result == diffrax.RESULTS.max_steps_reached
        # The loop refused the first step, however short. So the velocity is not finite where the
        # solve begins.
        blind = (solution.result == diffrax.RESULTS.dt_min_reached) & (
            solution.stats["num_accepted_steps"] == 0
        )
        failed = jnp.where(blind, Status.NOT_FINITE, Status.FAILED)
        status = jnp.where(exhausted, Status.MAX_STEPS, failed)
        status = jnp.where(okay, Status.SUCCESSFUL, status)
        stats = {
            name: jnp.asarray(solution.stats[name])
            for name in ("num_accepted_steps", "num_rejected_steps")
        }
        accepted, rejected = stats["num_accepted_steps"], stats["num_rejected_steps"]
        stages, reuses = self.system.stages()
        # A stage that one step hands on to the next is evaluated again at the start and at jumps.
        evaluations = (accepted + rejected) * (stages - reuses) + reuses * (1 + len(self.jumps))
        return _Count(status, evaluations, accepted, rejected)

    def _replayed(self, wanted: Any, options: Any) -> tuple[Any, _Count]:
        """Run the solve with the exact gradient of its accepted steps.

        The backward pass computes the gradient of what is differentiated, and of nothing else.
        """
        forward = diffrax.ForwardMode()

        @eqx.filter_custom_vjp
        def solve(wanted, options):
            return self._out(self._diffeqsolve(wanted, options, forward), wanted[3])

        @solve.def_fwd
        def solve_forward(perturbed, wanted, options):
            # An exported program may have any number of samples.
            if isinstance(self.samples, int) and self.max_steps * self.samples > _MOST_EDGES:
                raise InputError(
                    f'gradient="steps" keeps the edges of max_steps={self.max_steps} steps of '
                    f"{self.samples} solve(s), and no more than {_MOST_EDGES} in all; lower "
                    'max_steps, or take gradient="continuous"'
                )
            solution = self._diffeqsolve(wanted, options, _Recording(self.kept))
            states, count = self._out(solution, wanted[3])
            return (states, count), (*solution.stats["record"], count.accepted)

        @solve.def_bwd
        def solve_backward(residuals, cotangents, perturbed, wanted, options):
            walked, states, accepted = residuals
            values, x, interval, stops = wanted
            edges, bounds = self._edges(options[1], walked)
            record = Record(values, interval, stops, edges, bounds, states, accepted)

            def zeros(states, ct):
                return jnp.zeros_like(states) if ct is None else ct

            like = (
                x
                if stops is None
                else jax.tree.map(lambda a: jnp.zeros((len(stops), *a.shape), a.dtype), x)
            )
            cotangent = jax.tree.map(zeros, like, cotangents[0], is_leaf=lambda leaf: leaf is None)
            changes = [any(jax.tree.leaves(part)) for part in perturbed]
            found = Replay(self.system, record, self.kept).cotangents(
                cotangent, changes[0], changes[2], changes[3]
            )
            return forward_only(found, _TWICE)

        return solve(wanted, lax.stop_gradient(options))

    def _edges(self, ends: Array, walked: Array) -> tuple[Array, Array]:
        """Return the edges of the accepted steps, and the last depth that each step saved.

        At a jump, diffrax ends a step one rounding before the knot, and starts the next step one
        rounding behind it. This method moves such an edge back to the knot. The state at the knot
        belongs to the step behind it. `walked` holds the edges in the direction of diffrax's loop,
        which is upward.
        """
        edges = jnp.where(ends[0] < ends[1], 1, -1) * walked
        if not len(self.jumps):
            return edges, edges[1:]
        knots = jnp.asarray(self.jumps, edges.dtype)
        nearest = knots[jnp.argmin(jnp.abs(edges[:, None] - knots), axis=1)]
        jump = jnp.abs(edges - nearest) <= 4 * jnp.finfo(edges.dtype).eps
        edges = jnp.where(jump, nearest, edges)
        before = jnp.nextafter(edges, jnp.broadcast_to(ends[0], edges.shape))
        return edges, jnp.where(jump, before, edges)[1:]


class _Ending(diffrax.PIDController):
    """diffrax's controller, which ends a solve that rejects a step as short as rounding allows.

    After a step that is rejected, diffrax takes a shorter step. Where the velocity is not finite or
    the state grows without bound, no step is short enough. The loop would go on for `max_steps`
    steps, and the other samples of a batch would wait.
    """

    def adapt_step_size(self, *args: Any, **kwargs: Any) -> Any:
        """Choose the next step, in the form of `diffrax.PIDController`."""
        t0, t1 = args[:2]
        kept, *step, result = super().adapt_step_size(*args, **kwargs)
        # At zero, steps could become as short as the least number.
        eps = jnp.finfo(t1.dtype).eps
        shortest = jnp.where(kept, 0, jnp.maximum(2 * eps * jnp.abs(t1), eps**2))
        moved = t1 - t0 > shortest
        result = diffrax.RESULTS.where(moved, result, diffrax.RESULTS.dt_min_reached)
        return kept, *step, result


class _Recording(diffrax.ForwardMode):
    """diffrax's loop, whose statistics hold the edges of its steps and the states that are kept.

    diffrax can save every state or every k-th one. Which states are kept here is not known before.

    Args:
        kept: Which states are kept.
    """

    kept: Kept = eqx.field(static=True)

    @property
    def _loop(self) -> Callable[..., Any]:
        """The loop of `diffrax.ForwardMode`, with a record beside diffrax's state."""

        def loop(*, outer_while_loop: Callable[..., Any], **rest: Any) -> Any:
            record: Any = None

            def recorded(condition, body, start, *, max_steps, buffers):
                nonlocal record

                def step(carry):
                    state, (edges, states) = carry
                    states = self.kept.put(states, state.num_accepted_steps, state.y)
                    state = body(state)
                    # After a step that is rejected, the same state and edge are written once more.
                    # equinox asks for one write to each place in reverse mode alone.
                    edges = edges.at[state.num_accepted_steps].set(state.tprev)
                    return state, (edges, states)

                empty = jnp.full(max_steps + 1, start.tprev), self.kept.empty(start.y)
                end, record = outer_while_loop(
                    lambda carry: condition(carry[0]),
                    step,
                    (start, empty),
                    max_steps=max_steps,
                    buffers=lambda carry: (buffers(carry[0]), carry[1]),
                )
                return end

            end, stats = super(_Recording, self)._loop(outer_while_loop=recorded, **rest)
            return end, {**stats, "record": record}

        return loop


class _Stopping(diffrax.AbstractAdjoint):
    """Another adjoint, whose loop saves at stops that are known to be in order and inside.

    diffrax asks the host whether the depths to save at are in order and inside. Such a question
    cannot be exported. The loop gets the depths as they were before, and JAX drops the question.

    Args:
        adjoint: The adjoint that runs the loop.
        stops: The depths in the direction in which diffrax's loop walks, which is upward.
    """

    adjoint: diffrax.AbstractAdjoint
    stops: Array

    def loop(self, *, saveat: diffrax.SaveAt, **rest: Any) -> Any:
        """Run the loop, in the form of `diffrax.AbstractAdjoint`."""

        def unasked(leaf: Any) -> Any:
            return self.stops if eqx.is_array(leaf) else leaf

        return self.adjoint.loop(saveat=jax.tree.map(unasked, saveat), **rest)


def _is_blind(scheme: AbstractSolver) -> bool:
    """Return whether the error estimate of a Runge-Kutta scheme consists of zeros.

    Such a scheme has no error estimate.
    """
    tableau = scheme.tableau if isinstance(scheme, diffrax.AbstractRungeKutta) else None
    return isinstance(tableau, diffrax.ButcherTableau) and not tableau.b_error.any()


def _in_order(shares: Array, ends: Array) -> tuple[Array, Array]:
    """Return normalised depths at which a walk can stop, one after the other.

    The second result says which of these depths are the ones that were asked for.
    """
    values = lax.stop_gradient(shares)
    inside = jnp.clip(jnp.nan_to_num(values), jnp.min(ends), jnp.max(ends))
    sign = jnp.where(ends[1] < ends[0], -1, 1).astype(inside.dtype)
    stops = sign * lax.cummax(sign * inside)
    reached = jnp.abs(stops - values) <= 16 * jnp.finfo(shares.dtype).eps
    return stops + jnp.where(reached, shares - values, 0), reached


def _union(knots: list[np.ndarray]) -> np.ndarray:
    """Return all knots, in increasing order and each once."""
    return np.unique(np.concatenate(knots)) if knots else np.zeros(0)
