"""Weights that vary with depth: any NNX module, its parameters stacked as coefficients on a depth basis.

State that no solve can carry is refused here, where a field is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import basis as depth_basis
from neuralflow.depth.basis import Basis, PiecewiseConstant, Side
from neuralflow.depth.initial import Init, independent, tied


def check_variables(module: nnx.Module) -> None:
    """Refuses what a solve cannot carry: state other than batch statistics and random streams."""
    for path, node in nnx.iter_graph(module):
        if isinstance(node, (nnx.Cache, nnx.Intermediate)):
            raise InputError(
                f"the field holds mutable state ({type(node).__name__} at '{dotted(path)}'), which a solve cannot carry; "
                "a field may hold batch statistics (nnx.BatchStat) and random streams, other state stays around it"
            )


def _check_statistics(basis: Basis, stack: nnx.Module) -> None:
    """Refuses batch statistics where depth has no cells of its own for them."""
    for path, node in nnx.iter_graph(stack):
        if isinstance(node, nnx.BatchStat) and not isinstance(basis, PiecewiseConstant):
            raise InputError(
                f"batch statistics ('{dotted(path)}') belong to the cells of depth, and {basis} has values that reach across "
                f"them; take nf.PiecewiseConstant({basis.count}), or a norm without state (GroupNorm, LayerNorm)"
            )


def dotted(path: Any) -> str:
    """A path in a module as it would be written."""
    return ".".join(map(str, path))


class DepthVarying(nnx.Module):
    """An NNX module whose parameters are functions of normalised depth s in [0, 1].

    `make(rngs)` builds the module; it is built once per independent draw and the draws become the coefficients of
    `basis`, a leading axis of length `basis.size` on every parameter of `stack`. Submodules shared inside the module
    stay shared. `init` is `independent` (default), `tied`, or `smooth(length)`. Batch statistics belong to the cells
    of a `PiecewiseConstant` basis; random streams (of Dropout, say) are one for all depths, folded with step and stage.

    A layer brings it to the depth of each stage by itself, wherever it stands in a field; outside a layer use
    `field.at(s)`, which is a plain module.
    """

    def __init__(
        self,
        make: Callable[[nnx.Rngs], nnx.Module],
        basis: Basis,
        *,
        rngs: nnx.Rngs,
        init: Init = independent,
    ):
        if not callable(make) or isinstance(make, nnx.Module):
            raise InputTypeError(
                f"make must be a function of rngs that builds a module, got a {type(make).__name__}: lambda rngs: ..."
            )
        checks.instance("basis", basis, Basis, "a depth basis such as nf.PiecewiseConstant(16)")
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        checks.function("init", init)
        nodes = np.asarray(basis.nodes)
        mix = np.asarray(init(nodes))
        if mix.ndim != 2 or len(mix) != len(nodes):
            raise InputError(
                f"init must return a ({len(nodes)}, draws) matrix, got shape {mix.shape}"
            )
        draws = nnx.vmap(lambda key: _checked_module(make(nnx.Rngs(key))))(
            jax.random.split(rngs.params(), mix.shape[1])
        )
        _check_statistics(basis, draws)
        self.basis = basis
        self.stack = _coefficients(basis, draws, mix)

    @classmethod
    def from_modules(cls, modules: Sequence[nnx.Module], basis: Basis) -> DepthVarying:
        """The function of depth that takes these modules' weights at `basis.nodes` (cell centres, knots or Gauss points).

        Raises ValueError for a wrong number of modules or unlike structures, shapes or dtypes. Inside each module
        shared submodules stay shared; sharing between modules is lost.
        """
        if len(modules) != basis.size:
            raise InputError(
                f"{basis} takes {basis.size} modules, one per node, got {len(modules)}"
            )
        return cls.from_stack(_coefficients(basis, _stack(modules), np.eye(basis.size)), basis)

    @classmethod
    def from_stack(cls, stack: nnx.Module, basis: Basis) -> DepthVarying:
        """The function of depth whose coefficients are the parameters of `stack`, along a leading axis of basis.size each."""
        sizes = {
            np.shape(raw(leaf))[:1] for leaf in flatten(nnx.state(stack, nnx.Not(nnx.RngState)))[1]
        }
        if sizes - {(basis.size,)}:
            raise InputError(
                f"{basis} takes coefficients with a leading axis of {basis.size}, got {sorted(sizes)}"
            )
        _check_statistics(basis, stack)
        # NNX makes modules by their __init__ alone, so an empty one is filled.
        field = cls(lambda rngs: nnx.Module(), basis, rngs=nnx.Rngs(0), init=tied)
        field.stack = stack
        return field

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise InputTypeError(
            "a DepthVarying has no weights until its depth is known; call field.at(s)(x), or put it in a NeuralODE"
        )

    def at(self, s: float, side: Side = "right") -> nnx.Module:
        """The plain module at normalised depth s; at a knot `side` names the one-sided limit."""
        checks.choice("side", side, ("left", "right"))
        cell, local = depth_basis.locate(self.basis, np.asarray(s), side)

        return _map_arrays(
            lambda coefficients: self.basis.value(coefficients, cell, local), self.stack
        )

    def refine(self, finer: Basis) -> DepthVarying:
        """The same weights on a basis that contains this one; ValueError where it does not."""
        checks.instance(
            "the finer basis", finer, Basis, "a depth basis such as nf.PiecewiseConstant(16)"
        )
        return self._transform(finer, depth_basis.refinement(self.basis, finer))

    def project(self, target: Basis) -> DepthVarying:
        """The L2-nearest weights on another basis; the same weights where that basis contains this one."""
        checks.instance(
            "the target basis", target, Basis, "a depth basis such as nf.PiecewiseConstant(16)"
        )
        return self._transform(target, depth_basis.projection(self.basis, target))

    def _transform(self, target: Basis, matrix: np.ndarray) -> DepthVarying:
        return self.from_stack(
            _map_arrays(lambda coefficients: _apply(matrix, coefficients), self.stack), target
        )


def _coefficients(basis: Basis, draws: nnx.Module, mix: np.ndarray) -> nnx.Module:
    """A module of stacked draws as one of stacked coefficients."""
    matrix = depth_basis.interpolation(basis) @ mix
    constant = depth_basis.interpolation(basis) @ np.ones(basis.size)
    plain = np.array_equal(matrix, np.eye(len(matrix)))

    def coefficients(values: Array) -> Array:
        if not jnp.issubdtype(values.dtype, jnp.inexact):
            raise InputTypeError(
                f"weights that vary with depth must be floating, got {values.dtype}; keep others outside make()"
            )
        if plain:
            return values
        # A draw that is not random (a norm's scale of one, a bias of zero) stays what it is at every depth.
        same = jnp.all(values == values[0], axis=0)
        return jnp.where(same, _apply(constant[:, None], values[:1]), _apply(matrix, values))

    return _map_arrays(coefficients, draws, streams=lambda stacked: stacked[0])


def _apply(matrix: np.ndarray, coefficients: Array) -> Array:
    """matrix @ coefficients along the first axis; a matrix of zeros and single ones copies to the last bit."""
    if ((matrix != 0).sum(axis=1) == 1).all() and (matrix.max(axis=1) == 1).all():
        return coefficients[matrix.argmax(axis=1)]
    weights = jnp.asarray(matrix, jnp.real(coefficients).dtype)
    return jnp.tensordot(weights, coefficients, axes=1, precision=jax.lax.Precision.HIGHEST)


def _checked_module(module: Any) -> nnx.Module:
    if not isinstance(module, nnx.Module):
        raise InputTypeError(
            f"make(rngs) must return an nnx.Module, got {type(module).__name__}; wrap functions with from_function"
        )
    check_variables(module)
    if any(isinstance(node, DepthVarying) for _, node in nnx.iter_graph(module)):
        raise InputError(
            "a DepthVarying inside a DepthVarying has no meaning; vary the weights once"
        )
    return module


def _map_arrays(
    function: Callable[[Array], Array],
    module: nnx.Module,
    streams: Callable[[Array], Array] = lambda stream: stream,
) -> nnx.Module:
    """A new module with the function applied to every array (`streams` to random ones), shared submodules kept shared."""
    graphdef, random, state = nnx.split(module, nnx.RngState, ...)
    return nnx.merge(graphdef, jax.tree.map(streams, random), jax.tree.map(function, state))


def _stack(modules: Sequence[nnx.Module]) -> nnx.Module:
    """Modules of one structure as one module with a new leading axis; ValueError where they differ."""
    parts = [nnx.split(_checked_module(module)) for module in modules]
    graphdef, first = parts[0]
    want = _shapes(first)
    for k, (other, state) in enumerate(parts):
        if _shapes(state) != want:
            raise InputError(
                f"module {k} has parameters {_shapes(state)}, module 0 has {want}; give modules of one kind"
            )
        if other != graphdef:
            raise InputError(
                f"module {k} is built differently from module 0; give modules of one class and one set of options"
            )
    return nnx.merge(
        graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in parts))
    )


def _shapes(state: Any) -> dict[str, str]:
    return {
        dotted(path): f"{raw(leaf).dtype}{list(raw(leaf).shape)}"
        for path, leaf in nnx.to_flat_state(state)
    }


def raw(leaf: Any) -> Any:
    """The value of a variable; anything else as it is."""
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def flatten(state: Any) -> tuple[list[Any], list[Any]]:
    """Paths and leaves of a module's state, in one order."""
    flat = list(nnx.to_flat_state(state))
    return [path for path, _ in flat], [leaf for _, leaf in flat]
