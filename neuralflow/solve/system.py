"""What fixed grids and adaptive solves share: a field and its weights as diffrax sees them, and one step of a scheme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array

from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis, FlatField
from neuralflow.fields import evaluate, takes_time
from neuralflow.schemes.network import is_explicit, prepared, traits
from neuralflow.schemes.runge_kutta import explicit_step, rolled_step
from neuralflow.solve.form import split


class Step(NamedTuple):
    """One step: depth time at its start, signed length, where it enters and leaves its cell of each basis, the scheme's own
    coefficients, and its number (None where nobody asks)."""

    start: Array
    length: Array
    enter: tuple[Array, ...]
    leave: tuple[Array, ...]
    coefficients: Sequence[Array] = ()
    index: Array | None = None


class StepResult(NamedTuple):
    """What a step leaves: the state, the scheme's memory, whether it failed (None: it cannot), the field's new state."""

    x: Any
    memory: Any
    failed: Array | None
    changes: dict[int, Array]


class System:
    """A field as diffrax sees it: static structure only, arrays travel through `args`."""

    def __init__(
        self,
        field: nnx.Module,
        scheme: diffrax.AbstractSolver,
        dtype: Any,
        refusal: str | None = None,
    ):
        """`refusal`: why the field's state cannot change in this solve, if it cannot."""
        self.flat = FlatField(field)
        self.timed = takes_time(field)
        self.name = type(field).__name__
        self.dtype = dtype
        self.scheme = prepared(scheme, dtype)
        # Variables as they are: PerStep says that a coefficient has a row per step.
        self._form, self.coefficients = split(self.scheme)
        self.refusal = refusal or loops_inside(scheme)
        # The evaluations of the step that is being traced, and their numbers where they do not count up.
        self._calls: list[dict[int, Array]] = []
        self._numbers: tuple[int, ...] = ()
        self.explicit: Any = scheme.tableau if isinstance(scheme, diffrax.AbstractERK) else None
        self.may_fail = isinstance(scheme, diffrax.AbstractImplicitSolver)
        self.multi = [basis for basis in self.flat.bases if basis.count > 1]
        # Weights on one cell are the same window at every step: they are handed around whole, not scanned.
        self.windowed = [basis is not None and basis.count > 1 for basis in self.flat.array_bases]
        # Traced once for all stages of one shape, and written out at each of them: it costs nothing when it runs.
        self.velocity = jax.jit(self._velocity, inline=True)

    def split(self, values: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Arrays that change from cell to cell, and the others."""
        moving = [v for v, w in zip(values, self.windowed, strict=True) if w]
        return moving, [v for v, w in zip(values, self.windowed, strict=True) if not w]

    def windows(self, moving: Sequence[Any], cells: dict[Basis, Any]) -> list[Any]:
        """The coefficients that are active in the given cells."""
        return [
            basis.window(value, cells[basis])
            for basis, value in zip(self._moving_bases(), moving, strict=True)
        ]

    def scattered(
        self, gradients: Sequence[Array], cells: dict[Basis, Any], windows: Sequence[Any]
    ) -> list[Array]:
        """The cotangents of the coefficients with those of their windows in the given cells added in place."""
        triples = zip(self._moving_bases(), gradients, windows, strict=True)
        return [_scatter(gradient, cells[basis], window) for basis, gradient, window in triples]

    def _moving_bases(self) -> list[Basis]:
        return [
            basis
            for basis, w in zip(self.flat.array_bases, self.windowed, strict=True)
            if w and basis is not None
        ]

    def _velocity(
        self,
        windows: Sequence[Any],
        fixed: Sequence[Any],
        where: Sequence[Array],
        x: Any,
        t: Array,
        call: Any,
    ) -> tuple[Any, dict[int, Array]]:
        """f(x, t) with the weights at the local coordinates `where`, one per basis, and the state it changed.

        `call`: the numbers of the step and of the evaluation in it, which every random key is folded with.
        """
        local = dict(zip(self.flat.bases, where, strict=True))
        left, right = iter(windows), iter(fixed)
        arrays = []
        for basis, windowed, stream in zip(
            self.flat.array_bases, self.windowed, self.flat.streams, strict=True
        ):
            value = next(left if windowed else right)
            if basis is not None:
                value = basis.combine(value if windowed else basis.window(value, 0), local[basis])
            elif stream and call is not None:
                value = _folded(value, call)
            arrays.append(value)
        module = self.flat.module(arrays)
        try:
            v = evaluate(module, x, t)
        except Exception as error:
            error.add_note(
                f"(while the field {self.name} was evaluated on x of shape {jax.tree.map(jnp.shape, x)})"
            )
            raise
        changes = self.flat.changes(module, arrays)
        if changes and self.refusal:
            raise InputError(
                f"the field changes its state ('{self.flat.name(min(changes))}') in training, {self.refusal}"
            )
        _check_velocity(self.name, x, v)
        return v, lax.stop_gradient(changes)

    def stage(self, share: Any, x: Any, args: Any) -> Any:
        """The velocity at a share of the step, in local depth time; at its end exactly where the step leaves."""
        windows, fixed, step = args
        if isinstance(share, float):
            t = share * step.length
            where = [
                b if share == 1 else a + share * (b - a)
                for a, b in zip(step.enter, step.leave, strict=True)
            ]
        else:
            t = jnp.where(share == 1, step.length, share * step.length)
            share = lax.stop_gradient(share)
            where = [
                jnp.where(share == 1, b, a + share * (b - a))
                for a, b in zip(step.enter, step.leave, strict=True)
            ]
        number = len(self._calls)
        call = (
            None
            if step.index is None
            else (step.index, self._numbers[number] if self._numbers else number)
        )
        v, changes = self.velocity(windows, fixed, where, x, step.start + t, call)
        self._calls.append(changes)
        return v

    def step(self, x: Any, args: Any, memory: Any, jump: Any) -> StepResult:
        """One step of the scheme."""
        length = args[2].length
        self._calls, self._numbers = [], ()
        if self.explicit is not None:
            y = explicit_step(self.explicit, lambda c, y: self.stage(c, y, args), x, length)
            return StepResult(y, None, None, self._calls[0])
        scheme, start = self._at_step(args[2]), jnp.zeros_like(length)
        y, _, _, memory, result = scheme.step(self._term(), start, length, x, args, memory, jump)
        failed = jnp.asarray(result != diffrax.RESULTS.successful) if self.may_fail else None
        return StepResult(y, memory, failed, self._calls[traits(scheme).statistics])

    def unstep(self, y: Any, args: Any, memory: Any) -> tuple[Any, Any]:
        """State and memory before a step of a reversible scheme."""
        length = args[2].length
        scheme: Any = self._at_step(args[2])
        self._calls, self._numbers = [], scheme.retraced
        return scheme.unstep(self._term(), jnp.zeros_like(length), length, y, args, memory)

    def initial(self, x: Any, args: Any) -> Any:
        """The scheme's memory before the first step."""
        length = args[2].length
        self._calls, self._numbers = [], ()
        if self.explicit is not None:
            return None
        return self._at_step(args[2]).init(self._term(), jnp.zeros_like(length), length, x, args)

    def single(self, x: Any, args: Any) -> Any:
        """One step that remembers nothing of those before it."""
        return self.step(x, args, self.initial(x, args), False).x

    def _at_step(self, step: Step) -> diffrax.AbstractSolver:
        """The scheme with its coefficients in this step."""
        return self._form.join(step.coefficients)

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


def _folded(keys: Array, call: tuple[Any, Any]) -> Array:
    """A key, or an array of keys, folded with the numbers of a step and of an evaluation in it."""

    def fold(key):
        return jax.random.fold_in(jax.random.fold_in(key, call[0]), call[1])

    return jax.vmap(fold)(keys.reshape(-1)).reshape(keys.shape) if keys.ndim else fold(keys)


def loops_inside(scheme: Any) -> str | None:
    """Why a field's state cannot change in this scheme's steps; None where it can."""
    if is_explicit(scheme):
        return None
    return (
        f"and {type(scheme).__name__} evaluates it in a loop of its own; take an explicit scheme for training, "
        "or model.eval() to use the state as it is"
    )


def check_scheme(scheme: Any) -> None:
    """TypeError for anything but an instance of a diffrax solver."""
    if isinstance(scheme, type) and issubclass(scheme, diffrax.AbstractSolver):
        raise InputTypeError(
            f"a scheme is an instance: write {scheme.__name__}(), not {scheme.__name__}"
        )
    if not isinstance(scheme, diffrax.AbstractSolver):
        raise InputTypeError(f"a scheme is a diffrax solver such as nf.Euler(), got {scheme!r}")


def _check_velocity(name: str, x: Any, v: Any) -> None:
    if jax.tree.structure(x) != jax.tree.structure(v):
        raise InputError(
            f"the velocity of {name} must have the structure of x, {jax.tree.structure(x)}, got {jax.tree.structure(v)}"
        )
    for (path, a), b in zip(jax.tree.leaves_with_path(x), jax.tree.leaves(v), strict=True):
        where = f" at {jax.tree_util.keystr(path)}" if path else ""
        if jnp.shape(a) != jnp.shape(b):
            raise InputError(
                f"the velocity of {name} must have the shape of x{where}, {jnp.shape(a)}, got {jnp.shape(b)}"
            )
        if jnp.result_type(a) != jnp.result_type(b):
            raise InputError(
                f"the velocity of {name} must have the dtype of x{where}, {jnp.result_type(a)}, got {jnp.result_type(b)}; "
                "cast x to the parameters' dtype, or the velocity to x.dtype"
            )


def _scatter(gradient: Array, cell: Array, window: Any) -> Array:
    """Adds a window's cotangent to its coefficients in place."""
    parts = window if isinstance(window, tuple) else (window,)
    for offset, part in enumerate(parts):
        gradient = gradient.at[cell + offset].add(part)
    return gradient


def time_dtype(x: Any) -> Any:
    """The real dtype of the state, float32 at least."""
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise InputError("x holds no array; give at least one")
    dtypes = {
        jnp.finfo(leaf.dtype).dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
    if (
        any(not jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves)
        or len(dtypes) != 1
        or dtypes & _SMALL
    ):
        names = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        small = (
            ", and let the field compute in bfloat16 inside if you want its speed"
            if dtypes & _SMALL
            else ""
        )
        raise InputTypeError(
            f"x must be float32 or float64 (or complex) throughout, got {names}; cast it{small}"
        )
    return dtypes.pop()


_SMALL = {jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16)}
