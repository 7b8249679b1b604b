"""What fixed grids and adaptive solves share: a field and its weights as diffrax sees them, one step, results."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from flax import nnx
from jax import lax
from jaxtyping import Array, PyTree

from neuralflow.basis import Basis
from neuralflow.depth import Unfolded
from neuralflow.fields import takes_time


class Status(enum.IntEnum):
    """How a solve ended. BAD_DEPTHS: depths asked for in a trace lie outside the interval, or out of order."""

    SUCCESSFUL = 0
    MAX_STEPS = 1
    NOT_FINITE = 2
    IMPLICIT_FAILED = 3
    NOT_INVERTED = 4
    FAILED = 5
    BAD_DEPTHS = 6


class Solution(NamedTuple):
    """States and what the solve did.

    `states`: the final state, or with asked depths a leading axis of their length. `depths`: their depth times.
    `status`, `evaluations` (calls of the field), `accepted`, `rejected` (steps): integers, with a leading batch axis
    under per-sample control. Failed samples have states of NaN. A stage that a scheme hands on to its next step
    counts once, and an implicit stage counts once however many iterations its root finder takes.
    """

    states: PyTree[Array]
    depths: Array
    status: Array
    evaluations: Array
    accepted: Array
    rejected: Array


class SolveError(RuntimeError):
    """A solve failed; `status` says how, the message what to do."""

    def __init__(self, message: str, status: Status):
        super().__init__(message)
        self.status = status


class At(NamedTuple):
    """One step: depth time at its start, signed length, and where it starts and ends in each basis."""

    start: Array
    length: Array
    enter: tuple[Array, ...]
    leave: tuple[Array, ...]


class System:
    """A field as diffrax sees it: static structure only, arrays travel through `args`."""

    def __init__(self, field: nnx.Module, scheme: diffrax.AbstractSolver, dtype: Any):
        self.parts = Unfolded(field)
        self.timed = takes_time(field)
        self.name = type(field).__name__
        self.dtype = dtype
        self.scheme = _prepared(scheme, dtype)
        self.explicit: Any = scheme.tableau if isinstance(scheme, diffrax.AbstractERK) else None
        self.may_fail = isinstance(scheme, diffrax.AbstractImplicitSolver)
        self.multi = [basis for basis in self.parts.bases if basis.count > 1]
        # Weights on one cell are the same window at every step: they are handed around whole, not scanned.
        self.windowed = [tag is not None and tag.count > 1 for tag in self.parts.tags]
        # Traced once for all stages of one shape, and written out at each of them: it costs nothing when it runs.
        self.velocity = jax.jit(self._velocity, inline=True)

    def split(self, values: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Arrays that change from cell to cell, and the others."""
        moving = [v for v, w in zip(values, self.windowed, strict=True) if w]
        return moving, [v for v, w in zip(values, self.windowed, strict=True) if not w]

    def windows(self, moving: Sequence[Any], cells: dict[Basis, Any]) -> list[Any]:
        """The coefficients that are active in the given cells."""
        tags = [tag for tag, w in zip(self.parts.tags, self.windowed, strict=True) if w and tag is not None]
        return [tag.window(value, cells[tag]) for tag, value in zip(tags, moving, strict=True)]

    def _velocity(self, windows: Sequence[Any], fixed: Sequence[Any], where: Sequence[Array], x: Any, t: Array) -> Any:
        """f(x, t) with the weights at the local coordinates `where`, one per basis."""
        local = dict(zip(self.parts.bases, where, strict=True))
        left, right = iter(windows), iter(fixed)
        arrays = []
        for tag, windowed in zip(self.parts.tags, self.windowed, strict=True):
            value = next(left if windowed else right)
            if tag is not None:
                value = tag.combine(value if windowed else tag.window(value, 0), local[tag])
            arrays.append(value)
        module: Any = self.parts.module(arrays)
        try:
            v = module(x, t) if self.timed else module(x)
        except Exception as error:
            error.add_note(f"(while the field {self.name} was evaluated on x of shape {jax.tree.map(jnp.shape, x)})")
            raise
        changed = self.parts.changed(module, arrays)
        if changed is not None:
            raise ValueError(
                f"the field changed its own state ('{changed}') while it was evaluated, which a solve cannot carry; "
                "return what it computes instead, or keep such layers around the NeuralODE"
            )
        _check_velocity(self.name, x, v)
        return v

    def stage(self, share: Any, x: Any, args: Any) -> Any:
        """The velocity at a share of the step, in local depth time; at its end exactly where the step leaves."""
        windows, fixed, at = args
        if isinstance(share, float):
            t = share * at.length
            where = [b if share == 1 else a + share * (b - a) for a, b in zip(at.enter, at.leave, strict=True)]
        else:
            t = jnp.where(share == 1, at.length, share * at.length)
            share = lax.stop_gradient(share)
            where = [jnp.where(share == 1, b, a + share * (b - a)) for a, b in zip(at.enter, at.leave, strict=True)]
        return self.velocity(windows, fixed, where, x, at.start + t)

    def step(self, x: Any, args: Any, state: Any, jump: Any) -> tuple[Any, Any, Array | None]:
        """One step of the scheme: new state, new scheme state, whether it failed (None: it cannot)."""
        length = args[2].length
        if self.explicit is not None:
            return explicit_step(self.explicit, lambda c, y: self.stage(c, y, args), x, length), None, None
        y, _, _, state, result = self.scheme.step(self._term(), jnp.zeros_like(length), length, x, args, state, jump)
        return y, state, jnp.asarray(result != diffrax.RESULTS.successful) if self.may_fail else None

    def initial(self, x: Any, args: Any) -> Any:
        """The scheme's state before the first step."""
        length = args[2].length
        return None if self.explicit else self.scheme.init(self._term(), jnp.zeros_like(length), length, x, args)

    def single(self, x: Any, args: Any) -> Any:
        """One step that remembers nothing of those before it."""
        return self.step(x, args, self.initial(x, args), False)[0]

    def again(self, x: Any, args: Any) -> Any:
        """`single`, compiled as small as can be, where no derivative is taken."""
        if self.explicit is None:
            return self.single(x, args)
        return rolled_step(self.explicit, lambda c, y: self.stage(c, y, args), x, args[2].length)

    def _term(self) -> diffrax.ODETerm:
        """The step as diffrax's schemes see it: local time 0 -> length."""

        def vector_field(t, x, args):
            length = args[2].length
            return self.stage(t / jnp.where(length == 0, 1, length), x, args)

        return diffrax.ODETerm(vector_field)

    def stages(self) -> tuple[int, bool]:
        """Stages of a step in an adaptive loop, and whether the last one is handed on."""
        if isinstance(self.scheme, diffrax.AbstractRungeKutta):
            tableau = self.scheme.tableau
            assert isinstance(tableau, diffrax.ButcherTableau)
            return tableau.num_stages, tableau.fsal
        return 1, False


def used_stages(tableau: diffrax.ButcherTableau) -> int:
    """Stages that the step itself uses: a last one for an error estimate or the next step alone is left out."""
    return int(np.flatnonzero(tableau.b_sol)[-1]) + 1


def explicit_step(tableau: diffrax.ButcherTableau, velocity: Callable[[float, Any], Any], x: Any, h: Array) -> Any:
    """One step of an explicit Runge-Kutta tableau, stage by stage as one would write it by hand.

    `velocity(c, y)`: at the share c of the step. A last stage that only an error estimate or the next step would use
    is left out.
    """

    def plus(weights: Any, ks: Sequence[Any]) -> Any:
        used = [(float(w), k) for w, k in zip(weights, ks, strict=False) if w != 0]
        if not used:
            return x
        total = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), (_scaled(w, k) for w, k in used))
        return jax.tree.map(lambda a, b: a + h * b, x, total)

    ks: list[Any] = []
    count = used_stages(tableau)
    rows = (np.zeros(0), *tableau.a_lower)
    for c, row in list(zip((0.0, *tableau.c.tolist()), rows, strict=True))[:count]:
        ks.append(velocity(float(c), plus(row, ks)))
    return plus(tableau.b_sol, ks)


def rolled_step(tableau: diffrax.ButcherTableau, velocity: Callable[[Array, Any], Any], x: Any, h: Array) -> Any:
    """`explicit_step` as a loop over the stages: the field is compiled once. Not for reverse mode."""
    count = used_stages(tableau)
    rows = np.zeros((count + 1, count))
    for i, row in enumerate(tableau.a_lower[: count - 1], 1):
        rows[i, :i] = row
    rows[count] = tableau.b_sol[:count]
    weights, shares = jnp.asarray(rows, h.dtype), jnp.asarray([0.0, *tableau.c[: count - 1]], h.dtype)

    def plus(i: Any, ks: Any) -> Any:
        return jax.tree.map(lambda a, k: a + h * jnp.tensordot(weights[i], k, axes=1), x, ks)

    def stage(i: Any, ks: Any) -> Any:
        k = velocity(shares[i], plus(i, ks))
        return jax.tree.map(lambda a, b: a.at[i].set(b), ks, k)

    empty = jax.tree.map(lambda a: jnp.zeros((count, *a.shape), a.dtype), x)
    return plus(count, lax.fori_loop(0, count, stage, empty))


def _scaled(weight: float, k: Any) -> Any:
    return k if weight == 1 else jax.tree.map(lambda a: weight * a, k)


def _prepared(scheme: diffrax.AbstractSolver, dtype: Any) -> diffrax.AbstractSolver:
    """The scheme with what single steps need: a stage loop open to every derivative, a root finder with tolerances."""
    if isinstance(scheme, diffrax.AbstractRungeKutta) and scheme.scan_kind is None:
        scheme = eqx.tree_at(lambda s: s.scan_kind, scheme, "bounded", is_leaf=lambda leaf: leaf is None)
    finder = getattr(scheme, "root_finder", None)
    if finder is not None and not isinstance(getattr(finder, "rtol", 0.0), float):  # left to a step size controller
        tolerance = float(jnp.finfo(dtype).eps ** 0.5)  # of which the iteration asks a hundredth
        # The chord iteration shares a Jacobian between the stages of a Runge-Kutta step; a single stage has Newton's.
        kind: Any = diffrax.VeryChord if isinstance(scheme, diffrax.AbstractRungeKutta) else optx.Newton
        finder = kind(rtol=tolerance, atol=tolerance)
        scheme = eqx.tree_at(lambda s: (s.root_finder, s.root_find_max_steps), scheme, (finder, 50))
    return scheme


def check_scheme(scheme: Any) -> None:
    """TypeError for anything but an instance of a diffrax solver."""
    if isinstance(scheme, type) and issubclass(scheme, diffrax.AbstractSolver):
        raise TypeError(f"a scheme is an instance: write {scheme.__name__}(), not {scheme.__name__}")
    if not isinstance(scheme, diffrax.AbstractSolver):
        raise TypeError(f"a scheme is a diffrax solver such as nf.Euler(), got {scheme!r}")


def _check_velocity(name: str, x: Any, v: Any) -> None:
    if jax.tree.structure(x) != jax.tree.structure(v):
        raise ValueError(
            f"the velocity of {name} must have the structure of x, {jax.tree.structure(x)}, got {jax.tree.structure(v)}"
        )
    for (path, a), b in zip(jax.tree.leaves_with_path(x), jax.tree.leaves(v), strict=True):
        where = f" at {jax.tree_util.keystr(path)}" if path else ""
        if jnp.shape(a) != jnp.shape(b):
            raise ValueError(f"the velocity of {name} must have the shape of x{where}, {jnp.shape(a)}, got {jnp.shape(b)}")
        if jnp.result_type(a) != jnp.result_type(b):
            raise ValueError(
                f"the velocity of {name} must have the dtype of x{where}, {jnp.result_type(a)}, got {jnp.result_type(b)}; "
                "cast x to the parameters' dtype, or the velocity to x.dtype"
            )


def time_dtype(x: Any) -> Any:
    """The real dtype of the state, float32 at least."""
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise ValueError("x holds no array; give at least one")
    dtypes = {jnp.finfo(leaf.dtype).dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    if any(not jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves) or len(dtypes) != 1 or dtypes & _SMALL:
        given = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        small = ", and let the field compute in bfloat16 inside if you want its speed" if dtypes & _SMALL else ""
        raise TypeError(f"x must be float32 or float64 (or complex) throughout, got {given}; cast it{small}")
    return dtypes.pop()


_SMALL = {jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16)}


def all_finite(tree: Any) -> Array:
    """Whether every entry of every array is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def column(mask: Array, like: Array) -> Array:
    """A mask over the first axis, in the shape that selects from `like`."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - 1))


def where_ok(status: Array, states: Any) -> Any:
    """NaN where a solve failed: a finite half-way state would be believed."""
    bad = (status != Status.SUCCESSFUL) & (status != Status.NOT_FINITE)
    return jax.tree.map(lambda y: jnp.where(bad, jnp.nan, y), states)
