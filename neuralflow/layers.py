"""The solver-backed layer, and its way to and from plain residual branches."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.errors import TraceContextError
from jax import core, lax
from jaxtyping import Array, Float

from neuralflow import basis as depth_basis, checks, grid as grids
from neuralflow.basis import PiecewiseConstant
from neuralflow.depth import DepthVarying, Unfolded, raw
from neuralflow.fields import takes_time
from neuralflow.schemes import Euler
from neuralflow.solve import Adaptive, FixedGrid, Solution, SolveError, Status
from neuralflow.solve.system import time_dtype

Solve = FixedGrid | Adaptive

_open_tallies: ContextVar[tuple[dict[str, nnx.Variable], ...]] = ContextVar("tallies", default=())


@contextmanager
def tally() -> Iterator[dict[str, nnx.Variable]]:
    """Adds up `evaluations`, `accepted` and `rejected` over the layers called inside (means over per-sample solves).

    Works inside a trace too. Calls in a transformation of their own (a vmap or a checkpoint inside the model) belong
    to another trace and are not counted.
    """
    sums = {name: nnx.Variable(jnp.zeros(())) for name in ("evaluations", "accepted", "rejected")}
    token = _open_tallies.set((*_open_tallies.get(), sums))
    try:
        yield sums
    finally:
        _open_tallies.reset(token)


def _count(solution: Solution) -> None:
    for sums in _open_tallies.get():
        for name, total in sums.items():
            with suppress(TraceContextError):
                total.set_value(total.get_value() + jnp.mean(getattr(solution, name)))


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

    def __init__(self, field: nnx.Module, solve: Solve, t0: Any = 0.0, t1: Any = 1.0):
        if not isinstance(field, nnx.Module):
            remedy = "wrap it: nf.from_function(f, params)" if callable(field) else "give an nnx.Module with __call__(self, x)"
            raise TypeError(f"a field is an nnx.Module, got {type(field).__name__}; {remedy}")
        if not isinstance(solve, FixedGrid | Adaptive):
            raise TypeError(
                f"solve is a FixedGrid or an Adaptive, got {solve!r}; for example nf.FixedGrid(nf.Euler(), steps=16)"
            )
        _check_interval(t0, t1)
        solve.check(field)
        self.field = field
        self._set_solve(solve)
        self.t0, self.t1 = t0, t1
        self.backward = False

    def _set_solve(self, solve: Solve) -> None:
        form, data = _part(solve)
        self.solve_form, self.solve_data = nnx.static(form), nnx.data(data)

    @property
    def discretisation(self) -> Solve:
        """The FixedGrid or Adaptive of this layer."""
        return _join(self.solve_form, self.solve_data)

    def with_solve(self, solve: Solve) -> NeuralODE:
        """The same field, interval and direction under another discretisation; the weights are shared, not copied."""
        return self._copy(solve, self.backward)

    def reverse(self) -> NeuralODE:
        """The layer that integrates backward, from t1 to t0.

        The inverse only up to the discretisation error (forward then backward Euler is not the identity); `invert`
        solves for the input exactly.
        """
        return self._copy(self.discretisation, not self.backward)

    def _copy(self, solve: Solve, backward: bool) -> NeuralODE:
        layer = NeuralODE(self.field, solve, self.t0, self.t1)
        layer.backward = backward
        return layer

    @property
    def ends(self) -> tuple[Any, Any]:
        """The depth times between which it walks: t0 and t1, or those of `between`, in the order of the interval."""
        t0, t1 = raw(self.t0), raw(self.t1)
        known = {0.0: t0, 1.0: t1}
        shares = [share if isinstance(share, core.Tracer) else float(share) for share in self.discretisation.ends]
        start, stop = (known[s] if isinstance(s, float) and s in known else t0 + s * (t1 - t0) for s in shares)
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
            raise ValueError(
                f"between(start, stop) takes two depth times in the order of {first:g} to {last:g} and inside, got {start!r} and {stop!r}; "
                "to walk back, take reverse() of it"
            )
        share = lambda t: (t - t0) / (t1 - t0)
        return self.with_solve(self.discretisation.part(share(start), share(stop)))

    def covers(self, *times: Any) -> bool:
        """Whether known depth times are numbers between `ends`, in the order of the interval."""
        found = [np.asarray(raw(t)) for t in times]
        if any(t.dtype.kind not in "fiu" or t.shape for t in found):
            return False
        start, stop = map(float, self.ends)
        # Ends of a part are shares of the interval, turned back with a rounding.
        slack = 0.0 if self.discretisation.ends == (0.0, 1.0) else 1e-6
        shares = (np.asarray(found, float) - start) / (stop - start) if stop != start else np.asarray(found, float) - start
        return bool((np.diff(shares) >= 0).all() and (shares >= -slack).all() and (shares <= 1 + slack).all())  # not so for NaN

    def velocity(self, x: Any, t: Any) -> Any:
        """The field at x and depth time t, with the weights that belong to t; at a jump of theirs, those behind it.

        ValueError for a t outside of t0 and t1; in a trace the nearest depth's weights are taken.
        """
        t0, t1 = raw(self.t0), raw(self.t1)
        share = (t - t0) / (t1 - t0)
        parts = Unfolded(self.field)
        if _concrete((t, t0, t1)):
            if np.ndim(t) or not 0 <= float(share) <= 1:
                raise ValueError(f"t must be one depth time between {float(t0):g} and {float(t1):g}, got {t!r}")
            places = {basis: depth_basis.locate(basis, np.asarray(share), "right") for basis in parts.bases}
        else:
            at = jnp.asarray(share, float)
            places = {b: depth_basis.locate_traced(b, at, jnp.asarray(b.knots, at.dtype)) for b in parts.bases}
        module: Any = parts.at(Unfolded.values(self.field), places)
        return module(x, jnp.asarray(t, time_dtype(x))) if takes_time(self.field) else module(x)

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
        return self._checked(_integrate, x, "steps" if depths is None else self._depths(depths)).states

    def invert(self, y: Any) -> Any:
        """The x with layer(x) = y, solved block by block by fixed-point iteration, to rounding.

        Needs a fixed grid whose blocks x + (step(x) - x) contract in their residual part: h times the Lipschitz
        constant of the field below one. SolveError otherwise.
        """
        if not isinstance(self.discretisation, FixedGrid):
            raise TypeError("invert() solves the steps of a fixed grid; an adaptive layer has reverse()")
        return self._checked(_invert, y, None).states

    def per_step(self, x: Any, function: Callable[[Callable[[Any], Any], Any], Any]) -> Any:
        """function(block, x_k) of every step of a fixed grid, along a new leading axis (steps, ...).

        x_k is the state where the k-th step starts, `block` the step itself, from states to states: its Jacobian, its
        length, its distance from the identity. Traced once for all steps. TypeError for an adaptive layer, and for schemes that
        carry more than the state.
        """
        checks.function("function", function)
        if not isinstance(self.discretisation, FixedGrid):
            raise TypeError("an adaptive layer has no steps of its own; take with_solve(nf.FixedGrid(...))")
        graphdef, state = nnx.split(self.field)
        static = (graphdef, self.solve_form, self.backward, function)
        interval = (raw(self.t0), raw(self.t1))
        return _each_step(static, (state, list(self.solve_data), jax.tree.map(jnp.asarray, x), interval))

    def _depths(self, depths: Any) -> Any:
        if depths is None:
            return None
        if isinstance(depths, str) or np.ndim(depths) != 1 or not np.size(depths):
            raise ValueError(f"depths must be one-dimensional depth times, at least one, got {depths!r}")
        depths = jnp.asarray(depths, float)
        if _concrete((depths, self.t0, self.t1, self.ends)):
            start, end = map(float, self.ends)
            along = np.asarray(depths if self.backward is (end < start) else -depths)
            inside = (depths >= min(start, end)) & (depths <= max(start, end))  # not so for NaN
            if not (np.diff(along) >= 0).all() or not inside.all():
                raise ValueError(
                    f"depths must run in the direction of the walk between {start:g} and {end:g}, got {np.asarray(depths)}"
                )
        return depths

    def _run(self, function: Any, x: Any, depths: Any) -> Solution:
        graphdef, state = nnx.split(self.field)
        form, data = self.solve_form, list(self.solve_data)
        solve = self.discretisation
        if isinstance(solve, Adaptive):
            # Tolerances given as numbers are data of the compiled function all the same: new ones compile nothing.
            solve = eqx.tree_at(lambda s: (s.rtol, s.atol), solve, (jnp.asarray(solve.rtol), jnp.asarray(solve.atol)))
            if not solve.whole:
                solve = eqx.tree_at(lambda s: s.ends, solve, tuple(map(jnp.asarray, solve.ends)))
            form, data = _part(solve)
        if any(not hasattr(leaf, "dtype") for leaf in jax.tree.leaves(x)):
            raise TypeError(f"x must be an array or a pytree of arrays, got {type(x).__name__}; write jnp.asarray(x)")
        x = jax.tree.map(jnp.asarray, x)
        if getattr(solve, "per_sample", False) and any(not leaf.ndim for leaf in jax.tree.leaves(x)):
            raise ValueError("per_sample=True controls each sample (axis 0 of x) alone, but x has no axis; add one")
        every_step = isinstance(depths, str)
        interval, ends = (raw(self.t0), raw(self.t1)), None
        if _staged():
            # What is being compiled already needs no compiled function of its own, and numbers are constants there:
            # the steps are computed on the host, and there is less to compile.
            function = function.__wrapped__
            if all(isinstance(t, int | float) for t in interval):
                interval, ends = (None, None), (float(interval[0]), float(interval[1]))
        static = (graphdef, form, self.backward, every_step, ends)
        solution, changes = function(static, (state, data, x, interval, None if every_step else depths))
        if changes:
            variables = Unfolded.variables(self.field)
            for i, value in changes.items():
                variables[i].set_value(value)
        _count(solution)
        return solution

    def _checked(self, function: Any, x: Any, depths: Any) -> Solution:
        solution = self._run(function, x, depths)
        if _concrete((solution, nnx.state(self.field))):
            _raise_on_failure(self, solution, x)
        return solution


@functools.partial(jax.jit, static_argnums=0)
def _integrate(static: Any, data: Any) -> tuple[Solution, dict[int, Array]]:
    """The one compiled function behind every layer: the solution, and the field's new state."""
    graphdef, form, backward, every_step, ends = static
    state, solve_data, x, interval, depths = data
    solve, field = _join(form, solve_data), nnx.merge(graphdef, state)
    return solve.integrate(field, x, *(ends or interval), depths="steps" if every_step else depths, backward=backward)


@functools.partial(jax.jit, static_argnums=0)
def _invert(static: Any, data: Any) -> tuple[Solution, dict[int, Array]]:
    graphdef, form, backward, _, ends = static
    state, solve_data, x, interval, _ = data
    return _join(form, solve_data).invert(nnx.merge(graphdef, state), x, *(ends or interval), backward=backward), {}


@functools.partial(jax.jit, static_argnums=0)
def _each_step(static: Any, data: Any) -> Any:
    graphdef, form, backward, function = static
    state, solve_data, x, interval = data
    return _join(form, solve_data).per_step(nnx.merge(graphdef, state), x, *interval, function, backward=backward)


@dataclass(frozen=True)
class _Form:
    """The static part of a discretisation; None where its data goes."""

    treedef: Any
    leaves: tuple[Any, ...]

    def __deepcopy__(self, memo: Any) -> _Form:
        return self  # immutable, and tree definitions do not survive a deep copy


def _part(solve: Solve) -> tuple[_Form, list[Any]]:
    """A discretisation as its static form and its data (arrays and variables)."""
    leaves, treedef = jax.tree.flatten(solve, is_leaf=_is_variable)
    return _Form(treedef, tuple(None if _is_data(leaf) else leaf for leaf in leaves)), [v for v in leaves if _is_data(v)]


def _join(form: _Form, data: Sequence[Any]) -> Any:
    rest = iter(data)
    return jax.tree.unflatten(form.treedef, [next(rest) if leaf is None else leaf for leaf in form.leaves])


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)


def _is_data(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, nnx.Variable))


def _staged() -> bool:
    """Whether operations are being traced for compilation, rather than run (as under an eager grad or vmap)."""
    return isinstance(lax.add(np.float32(0), np.float32(0)), core.Tracer)


def _concrete(tree: Any) -> bool:
    return not any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(tree))


def _check_interval(t0: Any, t1: Any) -> None:
    if not _concrete((t0, t1)):
        return
    start, end = np.asarray(raw(t0)), np.asarray(raw(t1))
    if {start.dtype.kind, end.dtype.kind} - set("fiu") or start.shape or end.shape or not np.isfinite([start, end]).all():
        raise ValueError(f"t0 and t1 must each be one finite number, got t0={t0!r}, t1={t1!r}")
    if start == end:
        raise ValueError(f"the interval is empty, t0 = t1 = {start:g}; give t1 another value, or leave the layer out")


def _raise_on_failure(layer: NeuralODE, solution: Solution, x: Any) -> None:
    status = np.asarray(solution.status)
    if not status.any():
        return
    worst = Status(int(status.max()))
    accepted, rejected = int(np.max(solution.accepted)), int(np.max(solution.rejected))
    raise SolveError(f"the solve failed ({worst.name}): {_remedy(layer, worst, x, accepted, rejected)}", worst)


def _remedy(layer: NeuralODE, status: Status, x: Any, accepted: int, rejected: int) -> str:
    for name, tree in (("x", x), ("the weights of the field", nnx.state(layer.field, (nnx.Param, nnx.BatchStat)))):
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        bad = sum(int((~np.isfinite(a)).sum()) for a in leaves if a.dtype.kind in "fc")
        if bad:
            return f"{name} held {bad} values that are not finite before the first step; mend them first"
    solve = layer.discretisation
    scheme = type(solve.scheme).__name__
    if status == Status.NOT_FINITE and not accepted:
        return f"the velocity of {type(layer.field).__name__} is not finite where the solve begins; look at field(x) there"
    if status == Status.NOT_FINITE:
        return (
            f"the state left the range of floating point within {accepted} steps of {scheme}; "
            "take more steps, or an implicit scheme such as nf.ImplicitEuler() if the field is stiff"
        )
    if status == Status.NOT_INVERTED:
        return (
            "a block has no fixed point that the iteration finds: h times the field's Lipschitz constant is not below "
            "one; take more steps, or shrink the field"
        )
    if status == Status.IMPLICIT_FAILED:
        return f"the root finder of {scheme} did not converge in a step; take more steps"
    counts = f"{accepted} accepted and {rejected} rejected"
    if status == Status.MAX_STEPS:
        return (
            f"max_steps={getattr(solve, 'max_steps', None)} was reached after {counts} steps of {scheme}; raise max_steps or the "
            "tolerances; take an implicit scheme such as nf.Kvaerno3() if the field is stiff, a shorter interval if x grows without bound"
        )
    return f"{scheme} could not go on after {counts} steps; loosen the tolerances or check the field"


class _AtTime(nnx.Module):
    """f(., t) of a field f(x, t) at one depth time."""

    def __init__(self, field: nnx.Module, t: Float[Array, ""]):
        self.field = field
        self.t = t

    def __call__(self, x: Any) -> Any:
        field: Any = self.field
        return field(x, self.t.astype(jax.tree.leaves(x)[0].dtype))


def from_branches(branches: Sequence[nnx.Module]) -> NeuralODE:
    """The layer of a ResNet's own residual branches: x + f_0(x), then x + f_1(x), ..., to the last bit.

    Branches of one class and one set of shapes, called as f(x). The interval is [0, N] and Euler's h is one.
    """
    if (not isinstance(branches, Sequence) and not isinstance(branches, nnx.List)) or not len(branches):
        raise ValueError(f"from_branches takes a sequence of at least one residual branch, got {type(branches).__name__}")
    for k, branch in enumerate(branches):
        checks.instance(f"branch {k}", branch, nnx.Module, "an nnx.Module; wrap functions with nf.from_function")
        takes_time(branch)
        try:
            inspect.signature(branch).bind(None)
        except TypeError:
            raise TypeError(f"branch {k} cannot be called as f(x); a residual branch has no other input") from None
    count = len(branches)
    field = DepthVarying.from_modules(branches, PiecewiseConstant(count))
    return NeuralODE(field, FixedGrid(Euler(), steps=count), 0.0, float(count))


def to_branches(layer: NeuralODE) -> list[nnx.Module]:
    """The modules f_k such that x + h_k f_k(x) is the k-th residual block of an Euler layer.

    h_k is the step's length, (t1 - t0) / steps on a uniform grid. Raises TypeError for any other discretisation.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    solve = layer.discretisation
    if not isinstance(solve, FixedGrid) or not isinstance(solve.scheme, Euler) or layer.backward:
        raise TypeError("only a forward fixed grid with Euler is a stack of residual blocks; use with_solve() first")
    parts = Unfolded(layer.field)
    values = Unfolded.values(layer.field)
    plan = grids.plan(solve.grid, parts.bases)
    timed = takes_time(layer.field)
    t0, t1 = jnp.asarray(raw(layer.t0), float), jnp.asarray(raw(layer.t1), float)
    modules = []
    for k in range(plan.steps):
        places = {b: (p.cell[k], p.enter[k]) for b, p in zip(parts.bases, plan.places, strict=True)}
        module = parts.at(values, places)
        modules.append(_AtTime(module, t0 + plan.starts[k] * (t1 - t0) / plan.total) if timed else module)
    return modules
