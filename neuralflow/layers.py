"""The solver-backed layer: a velocity field and a discretisation. What compiles it stands at the end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx import reprlib, visualization
from jax import core, lax
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import FlatField, field_at, raw
from neuralflow.depth.grid import Plan
from neuralflow.fields import evaluate, takes_time
from neuralflow.solve import EVERY_STEP, Discretisation, Solution
from neuralflow.solve.failures import failure
from neuralflow.solve.form import Form, split
from neuralflow.solve.system import time_dtype
from neuralflow.solve.tally import count


class NeuralODE(nnx.Module):
    """A velocity field and a discretisation: x(t1), where x' = field(x, t) from x(t0) = x.

    `field`: an NNX module f(x) or f(x, t), with `DepthVarying` anywhere inside. `solve`: FixedGrid or Adaptive.
    `t0`, `t1`: the interval of depth time. Numbers are constants; arrays are data, which may be traced and
    differentiated, and an nnx.Param is learned.

    A plain nnx.Module: nest it, jit it, differentiate it, save it. Batch statistics and random streams in the field
    follow NNX's rules: `train()` and `eval()` choose, and a call under nnx.jit or outside any trace writes the new state
    back (plain jax.jit loses it, as every module's). Called outside any trace it raises SolveError
    where the solve failed; inside one a failed result is NaN, and `solve(x)` tells the status.
    """

    def __init__(self, field: nnx.Module, solve: Discretisation, t0: Any = 0.0, t1: Any = 1.0):
        if not isinstance(field, nnx.Module):
            remedy = (
                "wrap it: nf.from_function(f, params)"
                if callable(field)
                else "give an nnx.Module with __call__(self, x)"
            )
            raise InputTypeError(f"a field is an nnx.Module, got {type(field).__name__}; {remedy}")
        if not isinstance(solve, Discretisation):
            raise InputTypeError(
                f"solve is a FixedGrid or an Adaptive, got {solve!r}; for example nf.FixedGrid(nf.Euler(), steps=16)"
            )
        _check_interval(t0, t1)
        solve.check(field)
        self.field = field
        form, arrays = split(solve)
        self.solve_form, self.solve_data = nnx.static(form), nnx.data(arrays)
        self.t0, self.t1 = t0, t1
        self.backward = False

    @property
    def discretisation(self) -> Discretisation:
        """The FixedGrid or Adaptive of this layer."""
        return self.solve_form.join(self.solve_data)

    def __nnx_repr__(self) -> Iterator[Any]:
        """The layer as it would be written, for `repr` and `print`."""
        for part in super().__nnx_repr__():
            name = part.key if isinstance(part, reprlib.Attr) else ""
            if name == "solve_form":
                yield reprlib.Attr("solve", self.discretisation)
            elif name != "solve_data" and (name != "backward" or self.backward):
                yield part

    def __treescope_repr__(self, path: Any, subtree_renderer: Any) -> Any:
        """The layer as it would be written, for `nnx.display`."""
        attributes = {
            "field": self.field,
            "solve": self.discretisation,
            "t0": self.t0,
            "t1": self.t1,
        }
        return visualization.render_object_constructor(
            object_type=type(self),
            attributes=attributes | ({"backward": True} if self.backward else {}),
            path=path,
            subtree_renderer=subtree_renderer,
        )

    def with_solve(self, solve: Discretisation) -> NeuralODE:
        """The same field, interval and direction under another discretisation; the weights are shared, not copied."""
        return self._copy(self.field, solve, self.backward)

    def with_field(self, field: nnx.Module) -> NeuralODE:
        """Another field under the same discretisation, on the same interval and in the same direction."""
        return self._copy(field, self.discretisation, self.backward)

    def reverse(self) -> NeuralODE:
        """The layer that integrates backward, from t1 to t0.

        The inverse only up to the discretisation error (forward then backward Euler is not the identity); `invert`
        solves for the input exactly.
        """
        return self._copy(self.field, self.discretisation, not self.backward)

    def _copy(self, field: nnx.Module, solve: Discretisation, backward: bool) -> NeuralODE:
        layer = NeuralODE(field, solve, self.t0, self.t1)
        layer.backward = backward
        return layer

    @property
    def ends(self) -> tuple[Any, Any]:
        """The depth times between which it walks: t0 and t1, or those of `between`, in the order of the interval."""
        t0, t1 = raw(self.t0), raw(self.t1)
        known = {0.0: t0, 1.0: t1}
        shares = [
            share if isinstance(share, core.Tracer) else float(share)
            for share in self.discretisation.ends
        ]
        start, stop = (
            known[s] if isinstance(s, float) and s in known else t0 + s * (t1 - t0) for s in shares
        )
        return start, stop

    def between(self, start: Any, stop: Any) -> NeuralODE:
        """The layer that walks from depth time `start` to `stop` only, with the weights that belong to these depths.

        `t0` and `t1` stay those of the whole, to which the weights belong; `ends` are the new ones. On a fixed grid both are
        numbers, and steps that they cut are shortened; an adaptive layer takes arrays too, in any trace, and differentiates
        with respect to them. ValueError outside of `ends`, or in the other direction; in a trace the result is NaN then.
        """
        t0, t1 = raw(self.t0), raw(self.t1)
        if _concrete((start, stop, t0, t1, self.ends)) and not self.covers(start, stop):
            first, last = map(float, self.ends)
            raise InputError(
                f"between(start, stop) takes two depth times in the order of {first:g} to {last:g} and inside, got {start!r} and {stop!r}; "
                "to walk back, take reverse() of it"
            )

        def share(t):
            return (t - t0) / (t1 - t0)

        return self.with_solve(self.discretisation.part(share(start), share(stop)))

    def covers(self, *times: Any) -> bool:
        """Whether known depth times are numbers between `ends`, in the order of the interval."""
        numbers = [np.asarray(raw(t)) for t in times]
        if any(t.dtype.kind not in "fiu" or t.shape for t in numbers):
            return False
        start, stop = map(float, self.ends)
        # Ends of a part are shares of the interval, turned back with a rounding.
        slack = 0.0 if self.discretisation.ends == (0.0, 1.0) else 1e-6
        shares = (
            (np.asarray(numbers, float) - start) / (stop - start)
            if stop != start
            else np.asarray(numbers, float) - start
        )
        return bool(
            (np.diff(shares) >= 0).all()
            and (shares >= -slack).all()
            and (shares <= 1 + slack).all()
        )  # not so for NaN

    def velocity(self, x: Any, t: Any) -> Any:
        """The field at x and depth time t, with the weights that belong to t; at a jump of theirs, those behind it.

        ValueError for a t outside of t0 and t1; in a trace the nearest depth's weights are taken.
        """
        t0, t1 = raw(self.t0), raw(self.t1)
        share = (t - t0) / (t1 - t0)
        if not _concrete((t, t0, t1)):
            share = jnp.asarray(share, float)
        elif np.ndim(t) or not 0 <= float(share) <= 1:
            raise InputError(
                f"t must be one depth time between {float(t0):g} and {float(t1):g}, got {t!r}"
            )
        time = jnp.asarray(t, time_dtype(x)) if takes_time(self.field) else None
        return evaluate(field_at(self.field, share), x, time)

    @property
    def plan(self) -> Plan:
        """The steps of a fixed grid against the bases of the weights, in the order and direction of the walk; TypeError for an adaptive layer."""
        return self.discretisation.plan(FlatField(self.field).bases, backward=self.backward)

    def __call__(self, x: Any) -> Any:
        """x at the end of the interval, of the shape and dtype of x: any pytree of arrays with leading batch axes."""
        return self._checked(_integrate, x, None).states

    def solve(self, x: Any, depths: Any = None) -> Solution:
        """States and status, step counts and evaluations; never raises for a numerical failure.

        `depths` (m,): depth times in the order of the walk, for states with a leading axis of m.
        """
        return self._run(_integrate, x, self._depths(depths))

    def trajectory(self, x: Any, depths: Any = None) -> Any:
        """States along depth, with a new leading axis: at `depths` (m,), or on a fixed grid at all steps + 1 edges.

        Between the edges of a fixed grid the state is the scheme's own step, shortened. An adaptive solve steps to
        every depth it is asked for. Differentiable with respect to the depths.
        """
        return self._checked(
            _integrate, x, EVERY_STEP if depths is None else self._depths(depths)
        ).states

    def invert(self, y: Any) -> Any:
        """The x with layer(x) = y, solved block by block by fixed-point iteration, to rounding.

        Needs a fixed grid whose blocks x + (step(x) - x) contract in their residual part: h times the Lipschitz
        constant of the field below one. SolveError otherwise.
        """
        return self._checked(_invert, y, None).states

    def per_step(self, x: Any, function: Callable[[Callable[[Any], Any], Any], Any]) -> Any:
        """function(block, x_k) of every step of a fixed grid, along a new leading axis (steps, ...).

        x_k is the state where the k-th step starts, `block` the step itself, from states to states: its Jacobian, its
        length, its distance from the identity. Traced once for all steps. TypeError for an adaptive layer, and for schemes that
        carry more than the state.
        """
        checks.function("function", function)
        program, arrays = self._handed_over(jax.tree.map(jnp.asarray, x), None)
        return _each_step(program, function, arrays)

    def _depths(self, depths: Any) -> Any:
        if depths is None:
            return None
        if isinstance(depths, str) or np.ndim(depths) != 1 or not np.size(depths):
            raise InputError(
                f"depths must be one-dimensional depth times, at least one, got {depths!r}"
            )
        depths = jnp.asarray(depths, float)
        if _concrete((depths, self.t0, self.t1, self.ends)):
            start, end = map(float, self.ends)
            along = np.asarray(depths if self.backward is (end < start) else -depths)
            inside = (depths >= min(start, end)) & (depths <= max(start, end))  # not so for NaN
            if not (np.diff(along) >= 0).all() or not inside.all():
                raise InputError(
                    f"depths must run in the direction of the walk between {start:g} and {end:g}, got {np.asarray(depths)}"
                )
        return depths

    def _run(self, function: Any, x: Any, depths: Any) -> Solution:
        """The solution by one of the compiled functions below, with the field's new state written back."""
        if any(not hasattr(leaf, "dtype") for leaf in jax.tree.leaves(x)):
            raise InputTypeError(
                f"x must be an array or a pytree of arrays, got {type(x).__name__}; write jnp.asarray(x)"
            )
        program, arrays = self._handed_over(jax.tree.map(jnp.asarray, x), depths)
        if _staged():
            # What is being compiled already needs no compiled function of its own, and numbers are constants there:
            # the steps are computed on the host, and there is less to compile.
            function = function.__wrapped__
            if all(isinstance(t, int | float) for t in arrays.interval):
                t0, t1 = map(float, arrays.interval)
                program, arrays = (
                    program._replace(interval=(t0, t1)),
                    arrays._replace(interval=None),
                )
        solution, changes = function(program, arrays)
        if changes:
            variables = FlatField.variables(self.field)
            for i, value in changes.items():
                variables[i].set_value(value)
        count(solution)
        return solution

    def _handed_over(self, x: Any, depths: Any) -> tuple[_Program, _Arrays]:
        """Everything a compiled function needs: what is static, and what is data, new numbers of which compile nothing."""
        graphdef, state = nnx.split(self.field)
        solve = self.discretisation
        data = solve.as_data
        form, numbers = (self.solve_form, list(self.solve_data)) if data is solve else split(data)
        every_step = depths is EVERY_STEP
        program = _Program(graphdef, form, self.backward, every_step, None)
        interval = (raw(self.t0), raw(self.t1))
        return program, _Arrays(state, numbers, x, interval, None if every_step else depths)

    def _checked(self, function: Any, x: Any, depths: Any) -> Solution:
        solution = self._run(function, x, depths)
        if _concrete((solution, nnx.state(self.field))) and np.any(solution.status):
            raise failure(self.discretisation, self.field, x, solution)
        return solution


class _Program(NamedTuple):
    """What is static of a call. `interval`: its ends where they are numbers that are compiled in."""

    graphdef: Any
    form: Form
    backward: bool
    every_step: bool
    interval: tuple[float, float] | None


class _Arrays(NamedTuple):
    """What is data of a call: the field's state, the discretisation's numbers, x, the interval, depth times."""

    state: Any
    numbers: list[Any]
    x: Any
    interval: Any
    depths: Any


def _joined(program: _Program, arrays: _Arrays) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The discretisation, and the arguments of its methods."""
    field, interval = nnx.merge(program.graphdef, arrays.state), program.interval or arrays.interval
    return (
        program.form.join(arrays.numbers),
        (field, arrays.x, *interval),
        {"backward": program.backward},
    )


@functools.partial(jax.jit, static_argnums=0)
def _integrate(program: _Program, arrays: _Arrays) -> tuple[Solution, dict[int, Array]]:
    """The one compiled function behind every layer: the solution, and the field's new state."""
    solve, arguments, options = _joined(program, arrays)
    return solve.integrate(
        *arguments, depths=EVERY_STEP if program.every_step else arrays.depths, **options
    )


@functools.partial(jax.jit, static_argnums=0)
def _invert(program: _Program, arrays: _Arrays) -> tuple[Solution, dict[int, Array]]:
    solve, arguments, options = _joined(program, arrays)
    return solve.invert(*arguments, **options), {}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _each_step(program: _Program, function: Callable[..., Any], arrays: _Arrays) -> Any:
    solve, arguments, options = _joined(program, arrays)
    return solve.per_step(*arguments, function, **options)


def _staged() -> bool:
    """Whether operations are being traced for compilation, rather than run (as under an eager grad or vmap)."""
    return isinstance(lax.add(np.float32(0), np.float32(0)), core.Tracer)


def _concrete(tree: Any) -> bool:
    return not any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(tree))


def _check_interval(t0: Any, t1: Any) -> None:
    if not _concrete((t0, t1)):
        return
    start, end = np.asarray(raw(t0)), np.asarray(raw(t1))
    if (
        {start.dtype.kind, end.dtype.kind} - set("fiu")
        or start.shape
        or end.shape
        or not np.isfinite([start, end]).all()
    ):
        raise InputError(f"t0 and t1 must each be one finite number, got t0={t0!r}, t1={t1!r}")
    if start == end:
        raise InputError(
            f"the interval is empty, t0 = t1 = {start:g}; give t1 another value, or leave the layer out"
        )
