"""Fixed grids: the discretisation is the network.

The walk itself, with its memory modes, stands in `walk`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractSolver
from flax import nnx
from jax import core
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis, FlatField, grid as grids
from neuralflow.fields import takes_time
from neuralflow.schemes.network import (
    ReversibleScheme,
    check_scheme,
    is_explicit,
    step_coefficients,
    traits,
)
from neuralflow.solve.base import Discretisation, EveryStep, StepMap, check_ends, out_of_range
from neuralflow.solve.results import Solution, Status, all_finite, column, failing
from neuralflow.solve.system import walked_parts
from neuralflow.solve.walk import Memory, Walk, check_forgets, check_growth, check_rows


class FixedGrid(Discretisation):
    """Walk through depth in fixed steps: the discretisation is the network.

    The k-th step of Euler's scheme is the residual block x + h f_k(x), exactly. Here h is the
    length of the step in depth time, and f_k is the field with the weights of the step. The walk
    equals a compiled scan over the blocks to the last bit. Blocks that are called one by one, or
    unrolled, can round differently. `neuralflow.solve.Discretisation` has what both kinds of
    discretisation share.

    Gradients are the exact gradients of the steps. All transformations work: jvp, vjp, second
    derivatives and vmap. The memory mode "reversible" works in reverse mode alone, and not with
    jvp.

    States in bfloat16 or float16 stay so with explicit schemes: depth times and h are in float32, h
    is rounded once, and each step adds in the dtype of the state. A field with depth time casts the
    time itself.

    In training, one evaluation of the field in each step updates the batch statistics. This is the
    first evaluation, unless the scheme declares another one. Training takes one step in each cell
    of these statistics. Random keys are folded with the number of the step and the number of the
    evaluation. Outside training, every grid can use the batch statistics as they are.

    Args:
        scheme: The diffrax solver that takes the steps, an instance such as `neuralflow.Euler()`.
        steps: The number of equal steps over the whole interval. Give either `steps` or `times`.
        times: The normalised depths of the edges of the steps, which increase strictly from 0 to 1.
        memory: The name of what the backward pass keeps. "full" keeps every activation. "remat"
            keeps the states and computes the activations again. "two_level" keeps every fourth
            state, and all states of up to 16 steps. "reversible" keeps the last state, and walks
            back over the steps with a scheme that steps back exactly, such as RevNet.
        ends: The two normalised depths between which to walk, by default the whole interval. A step
            that an end cuts is shortened.

    Raises:
        InputError: Neither or both of `steps` and `times` are given, or an argument lies outside
            its range. The scheme cannot walk over the grid: a scheme that uses earlier steps needs
            equal steps and the whole interval, and a `neuralflow.schemes.PerStep` needs one row for
            each step that uses it. These are `steps` rows, or `steps - 1` rows for a two-step
            scheme whose first step is a plain one. With `memory="reversible"`, the scheme cannot
            step back, or would lose more than half of the digits.
        InputTypeError: `scheme` is not an instance of a diffrax solver of one velocity field,
            `steps` is not a whole number, or an end is a traced array. `scheme` is
            `diffrax.LeapfrogMidpoint` or `diffrax.HalfSolver`.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
        >>> grid = nf.FixedGrid(nf.Euler(), steps=4)
        >>> x = jnp.ones((1, 2))
        >>> print(nf.NeuralODE(field, grid)(x).round(2), round(1.25**4, 2))
        [[2.44 2.44]] 2.44
    """

    planned: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleVariableOverride]
    scheme: diffrax.AbstractSolver
    steps: int | None = eqx.field(static=True)
    times: tuple[float, ...] | None = eqx.field(static=True)
    memory: Memory = eqx.field(static=True)
    ends: tuple[float, float] = eqx.field(static=True)

    def __init__(
        self,
        scheme: diffrax.AbstractSolver,
        steps: int | None = None,
        *,
        times: Sequence[float] | np.ndarray | None = None,
        memory: Memory = "remat",
        ends: tuple[Real, Real] = (0.0, 1.0),
    ):
        check_scheme(scheme)
        _check_steps(scheme)
        checks.choice("memory", memory, get_args(Memory))
        if (steps is None) == (times is None):
            raise InputError(
                "a fixed grid takes either steps=... or times=..., exactly one of them"
            )
        whole = grids.uniform(steps) if times is None else grids.uneven(times)
        self.scheme = scheme
        self.steps = int(whole.total) if times is None else None
        self.times = None if times is None else tuple(whole.edges.tolist())
        self.memory = memory
        self.ends = _ends(scheme, ends)
        _check_fit(scheme, self.grid, memory)

    @property
    def grid(self) -> grids.Grid:
        """The grid of the edges of the steps, between `ends`."""
        whole = grids.uniform(self.steps) if self.times is None else grids.uneven(self.times)
        return whole if self.whole else whole.part(*self.ends)

    @property
    def whole(self) -> bool:
        """Whether the grid walks the whole interval."""
        return self.ends == (0.0, 1.0)

    @property
    def forward_mode(self) -> str:
        """The memory mode to take for forward-mode derivatives; empty if the walk has them."""
        return 'memory="remat"' if self.memory == "reversible" else ""

    @property
    def options(self) -> dict[str, Any]:
        """The arguments beside the scheme, by name, as a user would write them.

        `memory` and `ends` are left out if they have their default values.
        """
        options: dict[str, Any] = (
            {"steps": self.steps} if self.times is None else {"times": self.times}
        )
        options |= {} if self.memory == "remat" else {"memory": self.memory}
        return options if self.whole else {**options, "ends": self.ends}

    def plan(self, bases: Sequence[Basis], *, backward: bool = False) -> grids.Plan:
        """Set the steps against the bases of a field's weights.

        Args:
            bases: The bases on which the weights of the field vary with depth.
            backward: Whether the walk goes from the later end to the earlier one.

        Returns:
            The plan of the steps, in the order and direction of the walk.

        Raises:
            InputError: A step crosses a knot of a basis, or the scheme restarts at knots with too
                few steps between them.
            InputTypeError: `bases` is not a sequence of bases.
        """
        checks.instance("bases", bases, Sequence, "a sequence of depth bases")
        for basis in bases:
            checks.instance("each of bases", basis, Basis, "a depth basis")
        plan = grids.plan(self.grid, bases)
        _check_restarts(self.scheme, plan)
        return plan.reversed() if backward else plan

    def refined(self, parts: int, scheme: AbstractSolver | None = None) -> FixedGrid:
        """Cut every step into equal parts.

        Args:
            parts: The number of parts of a step.
            scheme: The scheme of the new grid. None keeps the present scheme.

        Returns:
            The finer grid, with the same `ends` and `memory`.

        Raises:
            InputError: `parts` is less than one, or the grid would have more than 2^24 steps.
            InputTypeError: `parts` is not a whole number, or `scheme` is not a diffrax solver.
        """
        checks.whole("parts", parts, most=checks.MOST_STEPS // self.grid.steps)
        scheme = self.scheme if scheme is None else scheme
        if self.steps is not None:
            return replace(self, scheme=scheme, steps=parts * self.steps)
        times = np.asarray(self.times)
        marks = np.arange(parts * (len(times) - 1) + 1) / parts
        return replace(self, scheme=scheme, times=np.interp(marks, np.arange(len(times)), times))

    @property
    def as_data(self) -> FixedGrid:
        """The grid itself.

        The host plans the steps, so another grid compiles anew.
        """
        return self

    def remedy(self, status: Status, accepted: int, rejected: int) -> str:
        """Say what to do about a walk that failed.

        Args:
            status: The status of the failed walk.
            accepted: The number of steps.
            rejected: Zero on a fixed grid.

        Returns:
            The text of the remedy.
        """
        if status == Status.NOT_INVERTED:
            return (
                "a block has no fixed point that the iteration finds: h times the field's "
                "Lipschitz constant is not below one; take more steps, or shrink the field"
            )
        if status == Status.IMPLICIT_FAILED:
            return (
                f"the root finder of {type(self.scheme).__name__} did not converge in a step; "
                "take more steps, or let the field compute in the precision of x"
            )
        return out_of_range(self.scheme, accepted)

    def check(self, field: nnx.Module) -> None:
        """Refuse a field that this grid cannot carry.

        Args:
            field: The velocity field.

        Raises:
            InputError: A step crosses a knot of the weights, or the scheme restarts at knots with
                too few steps between them. Or the field holds state that no solve can carry.
            InputTypeError: The field cannot be called as f(x) or f(x, t). Or the scheme walks along
                the parts of a field, and the field has none.
        """
        takes_time(field)
        walked_parts(self.scheme, field)
        self.plan(FlatField(field).bases)

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
        """Carry a state through the interval, step by step.

        Args:
            field: The velocity field.
            x: The state where the walk starts, a pytree of arrays.
            t0: The depth time that belongs to normalised depth 0.
            t1: The depth time that belongs to normalised depth 1.
            context: The context that the field is called with, a pytree of arrays, or None.
            depths: The depth times at which to return states, shape `(m,)`.
                `neuralflow.solve.EVERY_STEP` asks for the states at both ends and at all edges
                between the steps. None asks for the final state alone.
            backward: Whether to walk from the later end of the walk to the earlier one.

        Returns:
            The solution, and the new state of the field by the place of each array in the field's
            flat list.

        Raises:
            InputError: The walk goes backward, and the scheme holds a state that comes before the
                start of the interval. Or the walk updates batch statistics, and the number of steps
                differs from the number of their cells.
            InputTypeError: States are asked for at `depths`, and the scheme carries more than the
                state from step to step.
        """
        if backward and traits(self.scheme).continued:
            raise InputError(
                f"the state before of {type(self.scheme).__name__} belongs to the start of the "
                "interval, so the layer cannot be walked backward; give a scheme without it"
            )
        walk = Walk(self.plan, self.scheme, self.memory, field, x, t0, t1, backward, context)
        walked = walk.forward(depths is not None)
        final, states = walked.final, walked.states
        status = jnp.where(all_finite(final), Status.SUCCESSFUL, Status.NOT_FINITE)
        failed = False if walked.failed is None else walked.failed
        status = jnp.where(failed, Status.IMPLICIT_FAILED, status)
        if depths is None:
            out, at = final, walk.end
        elif isinstance(depths, EveryStep):
            out, at = states, jnp.append(walk.starts, walk.end)
        else:
            out, at = walk.partial_steps(states, depths), depths
            low, high = jnp.minimum(walk.starts[0], walk.end), jnp.maximum(walk.starts[0], walk.end)
            reached = (depths >= low) & (depths <= high)
            status = jnp.where((status == 0) & ~reached.all(), Status.BAD_DEPTHS, status)
            out = jax.tree.map(lambda a: jnp.where(column(reached, a), a, jnp.nan), out)
        out = failing(failed, out, (FlatField.values(field), context, x, t0, t1, self, depths))
        count = walk.evaluations()
        return Solution(
            out, at, status, *(jnp.asarray(n) for n in (count, walk.plan.steps, 0))
        ), walked.changes

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
    ) -> Any:
        """Compute function(block, x_k) for every step k.

        Args:
            field: The velocity field.
            x: The state where the walk starts.
            t0: The depth time that belongs to normalised depth 0.
            t1: The depth time that belongs to normalised depth 1.
            function: The function to compute. Its first argument `block` is the step, which takes
                a state where the step starts to the state where the step ends. Its second argument
                x_k is the state of this walk where the step starts.
            context: The context that the field is called with, a pytree of arrays, or None.
            backward: Whether to walk from the later end of the walk to the earlier one.

        Returns:
            The values of the function, stacked along a new leading axis of length `steps`.

        Raises:
            InputTypeError: The scheme carries more than the state from step to step.
            InputError: The field changes its state when the steps are evaluated.
        """
        check_forgets(
            self.scheme,
            "its steps are no functions of the state alone; take a scheme of single steps such "
            "as nf.Euler()",
        )
        walk = Walk(
            self.plan,
            self.scheme,
            self.memory,
            field,
            x,
            t0,
            t1,
            backward,
            context,
            "and its steps are looked at one by one; call model.eval() first",
        )
        return walk.each(function, jax.tree.map(lambda a: a[:-1], walk.forward(True).states))

    def invert(
        self,
        field: nnx.Module,
        y: PyTree,
        t0: Real,
        t1: Real,
        *,
        context: PyTree = None,
        backward: bool = False,
    ) -> Solution:
        """Solve every step for its input, from the last step to the first.

        A reversible scheme uses its own inverse. Other schemes use fixed-point iteration.

        Args:
            field: The velocity field.
            y: The state where the walk ends.
            t0: The depth time that belongs to normalised depth 0.
            t1: The depth time that belongs to normalised depth 1.
            context: The context that the field is called with, a pytree of arrays, or None.
            backward: Whether the walk that led to `y` went backward.

        Returns:
            The solution whose state is the start of the walk that ends in `y`.

        Raises:
            InputTypeError: The scheme carries more than the state from step to step.
            InputError: The field changes its state when the steps are evaluated.
        """
        check_forgets(
            self.scheme, "the input cannot be told from the final state alone; take Euler or RevNet"
        )
        walk = Walk(
            self.plan,
            self.scheme,
            self.memory,
            field,
            y,
            t0,
            t1,
            backward,
            context,
            "and invert() leaves it as it is; call model.eval() first",
        )
        x, failed = walk.invert()
        status = jnp.where(
            failed, Status.NOT_INVERTED, jnp.where(all_finite(x), 0, Status.NOT_FINITE)
        )
        counts = (jnp.asarray(n) for n in (walk.evaluations(), walk.plan.steps, 0))
        inputs = (FlatField.values(field), context, y, t0, t1, self)
        return Solution(failing(failed, x, inputs), walk.starts[0], status, *counts)


def _ends(scheme: AbstractSolver, ends: Any) -> tuple[float, float]:
    """Return the normalised depths where a walk starts and stops.

    The function refuses anything but two increasing numbers, and schemes that cannot start or stop
    inside the interval.
    """
    first, last = check_ends(ends)
    if isinstance(first, core.Tracer) or isinstance(last, core.Tracer):
        raise InputTypeError(
            "the ends of a fixed grid are numbers, got traced ones: its steps are planned "
            "before; take nf.Adaptive"
        )
    start, stop = float(first), float(last)
    if not start < stop:
        raise InputError(
            f"ends are two increasing normalised depths in [0, 1], got {start:g} and {stop:g}"
        )
    if (start, stop) != (0, 1) and (step_coefficients(scheme) or traits(scheme).past):
        raise InputError(
            f"{type(scheme).__name__} uses earlier steps or has coefficients of their own for "
            "steps, so it cannot start or stop inside the interval; take a scheme of single "
            "steps such as nf.Euler()"
        )
    return start, stop


def _check_restarts(scheme: AbstractSolver, plan: grids.Plan) -> None:
    """Refuse a scheme that would take the steps between two restarts with its starter alone."""
    least, runs = traits(scheme).past + 1, plan.runs(traits(scheme).restart)
    if len(runs) > 1 and runs.min() < least:
        raise InputError(
            f"{type(scheme).__name__} restarts where the weights jump or kink, which needs at "
            f"least {least} steps from one such knot to the next, got {runs.min()}; take more "
            "steps, weights on fewer cells, or restart=False"
        )


def _check_steps(scheme: AbstractSolver) -> None:
    """Refuse a scheme of diffrax whose steps are others on a fixed grid."""
    name = type(scheme).__name__
    if isinstance(scheme, diffrax.LeapfrogMidpoint):
        raise InputTypeError(
            f"the scheme {name} keeps the depth time of the step before, and every step of a "
            "fixed grid starts at its own zero; take nf.schemes.leapfrog()"
        )
    if isinstance(scheme, diffrax.HalfSolver):
        raise InputTypeError(
            f"the scheme {name} takes half steps to estimate errors, which a fixed grid does not "
            f"ask for; take twice the steps of {scheme.solver!r}"
        )


def _check_fit(scheme: AbstractSolver, grid: grids.Grid, memory: str) -> None:
    """Refuse a scheme that cannot walk over a grid, or back over the grid."""
    name, steps = type(scheme).__name__, grid.steps
    if memory == "reversible":
        if not isinstance(scheme, ReversibleScheme):
            wraps = is_explicit(scheme) and not traits(scheme).carries
            wrapped = f", nf.schemes.Reversible({name}())" if wraps else ""
            raise InputError(
                f'memory="reversible" walks back over the steps, which {name} cannot; take '
                f'nf.schemes.RevNet(), leapfrog(){wrapped}, or memory="two_level"'
            )
        check_growth(scheme, steps, np.float64)
    if traits(scheme).past and not np.allclose(grid.shares, grid.shares[0], rtol=1e-9, atol=0):
        raise InputError(
            f"{name} uses earlier steps, which must be of equal length; give steps=..., not "
            "uneven times=..."
        )
    for coefficient in step_coefficients(scheme):
        # A scheme may get the state before x when it is called. Then its coefficient needs one
        # more row.
        check_rows(scheme, coefficient, steps, {steps, steps - traits(scheme).plain})
