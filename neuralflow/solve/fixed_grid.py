"""Fixed grids: the discretisation is the network. The walk itself stands in `walk`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis, FlatField, grid as grids
from neuralflow.fields import takes_time
from neuralflow.schemes.network import PerStep, ReversibleScheme, traits
from neuralflow.solve.base import EVERY_STEP, Discretisation, StepMap, out_of_range
from neuralflow.solve.results import Solution, Status, all_finite, column, where_ok
from neuralflow.solve.system import check_scheme
from neuralflow.solve.walk import Memory, Walk, check_forgets, check_growth, check_rows


class FixedGrid(Discretisation):
    """Fixed steps: the discretisation is the network. Euler's k-th step is the residual block x + h f_k(x), exactly.

    `scheme`: a diffrax solver instance. Give `steps`, a number of equal steps, or `times`, normalised depths that
    increase from 0 to 1. `ends`: the normalised depths between which to walk, all of it by default; steps that they cut are
    shortened. `memory` names what the backward pass keeps: "full" (every activation), "remat" (the
    states; activations are computed again), "two_level" (every fourth state), "reversible" (the last state: a scheme
    that steps back exactly, such as RevNet, is walked back). Gradients are exact and open to every transformation, jvp,
    vjp, second derivatives, vmap; "reversible" is for reverse mode alone, not for jvp.

    In training, batch statistics are updated by each step's first evaluation of the field, one step per cell of depth,
    and random keys are folded with the numbers of the step and the evaluation; evaluation uses them on any grid.
    """

    planned: ClassVar[bool] = True
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
        ends: tuple[Any, Any] = (0.0, 1.0),
    ):
        check_scheme(scheme)
        checks.choice("memory", memory, ("full", "remat", "two_level", "reversible"))
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
        """The edges of the steps."""
        whole = grids.uniform(self.steps) if self.times is None else grids.uneven(self.times)
        return whole if self.ends == (0, 1) else whole.part(*self.ends)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments beside the scheme that are not the defaults, as they would be written."""
        options: dict[str, Any] = (
            {"steps": self.steps} if self.times is None else {"times": self.times}
        )
        options |= {} if self.memory == "remat" else {"memory": self.memory}
        return options if self.ends == (0.0, 1.0) else {**options, "ends": self.ends}

    def plan(self, bases: Sequence[Basis], *, backward: bool = False) -> grids.Plan:
        """Its steps against the bases of a field's weights, in the order and direction of the walk; ValueError for a step across a knot."""
        plan = grids.plan(self.grid, bases)
        return plan.reversed() if backward else plan

    def refined(self, parts: int, scheme: Any = None) -> FixedGrid:
        """Every step cut into so many equal parts."""
        scheme = scheme or self.scheme
        if self.times is None:
            return FixedGrid(scheme, steps=parts * self.grid.steps, memory=self.memory)
        marks = np.arange(parts * (len(self.times) - 1) + 1) / parts
        return FixedGrid(
            scheme,
            times=np.interp(marks, np.arange(len(self.times)), self.times),
            memory=self.memory,
        )

    @property
    def as_data(self) -> FixedGrid:
        """The grid itself: it is planned on the host, so that another one compiles anew."""
        return self

    def remedy(self, status: Status, accepted: int, rejected: int) -> str:
        """What to do about a walk that failed."""
        if status == Status.NOT_INVERTED:
            return (
                "a block has no fixed point that the iteration finds: h times the field's Lipschitz constant is not below "
                "one; take more steps, or shrink the field"
            )
        if status == Status.IMPLICIT_FAILED:
            return f"the root finder of {type(self.scheme).__name__} did not converge in a step; take more steps"
        return out_of_range(self.scheme, accepted)

    def check(self, field: nnx.Module) -> None:
        """Raises where this grid cannot carry the field: a step across a knot, or an unknown form of field."""
        takes_time(field)
        self.plan(FlatField(field).bases)

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
        """Carries x through the interval, and the field's new state beside it.

        `depths`: depth times to return states at, the ends and all edges of steps if EVERY_STEP.
        """
        if backward and traits(self.scheme).continued:
            raise InputError(
                f"the state before of {type(self.scheme).__name__} belongs to the start of the interval, so the layer cannot be "
                "walked backward; give a scheme without it"
            )
        walk = Walk(self.plan, self.scheme, self.memory, field, x, t0, t1, backward)
        walked = walk.forward(depths is not None)
        final, states = walked.final, walked.states
        status = jnp.where(all_finite(final), Status.SUCCESSFUL, Status.NOT_FINITE)
        if walked.failed is not None:
            status = jnp.where(walked.failed, Status.IMPLICIT_FAILED, status)
            final, states = where_ok(status, final), where_ok(status, states)
        if depths is None:
            out, at = final, walk.end
        elif depths is EVERY_STEP:
            out, at = states, jnp.append(walk.starts, walk.end)
        else:
            out, at = walk.partial_steps(states, depths), depths
            low, high = jnp.minimum(walk.starts[0], walk.end), jnp.maximum(walk.starts[0], walk.end)
            reached = (depths >= low) & (depths <= high)
            status = jnp.where((status == 0) & ~reached.all(), Status.BAD_DEPTHS, status)
            out = jax.tree.map(lambda a: jnp.where(column(reached, a), a, jnp.nan), out)
        count = walk.evaluations()
        return Solution(
            out, at, status, *(jnp.asarray(n) for n in (count, walk.plan.steps, 0))
        ), walked.changes

    def per_step(
        self,
        field: nnx.Module,
        x: Any,
        t0: Any,
        t1: Any,
        function: Callable[[StepMap, Any], Any],
        *,
        backward: bool = False,
    ) -> Any:
        """function(block, x_k) of every step, along a new leading axis: `block` takes the states x_k where it starts to its end."""
        check_forgets(
            self.scheme,
            "its steps are no functions of the state alone; take a scheme of single steps such as nf.Euler()",
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
            "and its steps are looked at one by one; call model.eval() first",
        )
        return walk.each(function, jax.tree.map(lambda a: a[:-1], walk.forward(True).states))

    def invert(
        self, field: nnx.Module, y: Any, t0: Any, t1: Any, *, backward: bool = False
    ) -> Solution:
        """Solves every step for its input, from the last to the first: by the scheme's own inverse or by iteration."""
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
            "and invert() leaves it as it is; call model.eval() first",
        )
        x, failed = walk.invert()
        status = jnp.where(
            failed, Status.NOT_INVERTED, jnp.where(all_finite(x), 0, Status.NOT_FINITE)
        )
        counts = (jnp.asarray(n) for n in (walk.evaluations(), walk.plan.steps, 0))
        return Solution(where_ok(status, x), walk.starts[0], status, *counts)


def _ends(scheme: Any, ends: Any) -> tuple[float, float]:
    """Where a walk starts and stops; raises for anything but two increasing numbers, and for schemes that cannot be cut."""
    if any(isinstance(end, core.Tracer) for end in ends):
        raise InputTypeError(
            "the ends of a fixed grid are numbers, got traced ones: its steps are planned before; take nf.Adaptive"
        )
    start, stop = (float(end) for end in ends)
    if not 0 <= start < stop <= 1:
        raise InputError(
            f"ends are two increasing normalised depths in [0, 1], got {start:g} and {stop:g}"
        )
    rows = any(
        isinstance(leaf, PerStep)
        for leaf in jax.tree.leaves(scheme, is_leaf=lambda leaf: isinstance(leaf, PerStep))
    )
    if (start, stop) != (0, 1) and (rows or traits(scheme).past):
        raise InputError(
            f"{type(scheme).__name__} uses earlier steps or has coefficients of their own for steps, so it cannot start or stop "
            "inside the interval; take a scheme of single steps such as nf.Euler()"
        )
    return start, stop


def _check_fit(scheme: Any, grid: grids.Grid, memory: str) -> None:
    """Raises where a scheme cannot walk over a grid, or back over it."""
    name, steps = type(scheme).__name__, grid.steps
    if memory == "reversible":
        if not isinstance(scheme, ReversibleScheme):
            raise InputError(
                f'memory="reversible" walks back over the steps, which {name} cannot; take nf.schemes.RevNet(), leapfrog(), '
                f'or nf.schemes.Reversible({name}()), or memory="two_level"'
            )
        check_growth(scheme, steps, np.float64)
    if traits(scheme).past and not np.allclose(grid.shares, grid.shares[0], rtol=1e-9, atol=0):
        raise InputError(
            f"{name} uses earlier steps, which must be of equal length; give steps=..., not uneven times=..."
        )
    for leaf in jax.tree.leaves(scheme, is_leaf=lambda leaf: isinstance(leaf, PerStep)):
        if isinstance(leaf, PerStep):
            # A scheme may be given the state before, and with it the need of another row, when it is called.
            check_rows(scheme, leaf, steps, {steps, steps - traits(scheme).plain})
