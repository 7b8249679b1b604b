"""Weights that vary with depth: any NNX module, its parameters stacked as coefficients on a depth basis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from neuralflow import basis as depth_basis, checks
from neuralflow.basis import Basis, PiecewiseConstant, Side

Init = Callable[[np.ndarray], np.ndarray]
"""From the depths of the nodes (nodes,) to a matrix (nodes, draws) that mixes independent draws into node values."""


def independent(nodes: np.ndarray) -> np.ndarray:
    """Every node draws its own weights: an ordinary network's initialisation, not smooth in depth."""
    return np.eye(len(nodes))


def tied(nodes: np.ndarray) -> np.ndarray:
    """One draw for every depth: constant weights."""
    return np.ones((len(nodes), 1))


def smooth(length: float = 0.5) -> Init:
    """Weights drawn as a Gaussian process in depth with covariance exp(-(s - s')^2 / (2 length^2)).

    Every node keeps the variance of the module's own initialisation. `length`: correlation length, as a share of the
    depth. Our formulation of the smooth initialisation of Marion et al. (arXiv 2206.06929).
    """
    if not isinstance(length, int | float) or not length > 0:
        raise ValueError(f"smooth(length) takes a positive correlation length, got {length!r}")

    def mix(nodes: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(np.exp(-((nodes[:, None] - nodes) ** 2) / (2 * length**2)))
        keep = values > 1e-10 * values[-1]
        root = vectors[:, keep] * np.sqrt(values[keep])
        return root / np.linalg.norm(root, axis=1, keepdims=True)

    return mix


def fractional(hurst: float) -> Init:
    """Weights drawn as the increments of a fractional Brownian motion in depth, each of the module's own variance.

    `hurst` in (0, 1]: at 1/2 every node draws its own, at 1 there is one draw for all, between them neighbours are alike over ever longer
    stretches, below 1/2 they alternate. Covariance (|k + 1|^2H - 2 |k|^2H + |k - 1|^2H) / 2 of nodes k apart, equally spaced (Marion,
    Fermanian, Biau & Vert, arXiv 2206.06929).
    """
    if not isinstance(hurst, int | float) or not 0 < hurst <= 1:
        raise ValueError(f"fractional(hurst) takes a Hurst index above 0 and up to 1, got {hurst!r}")

    def mix(nodes: np.ndarray) -> np.ndarray:
        if len(nodes) > 2 and np.ptp(np.diff(nodes)) > 1e-9:
            raise ValueError(
                "increments of a fractional Brownian motion are those of equally spaced nodes; take nf.PiecewiseConstant(count)"
            )
        if hurst == 1:
            return tied(nodes)
        k = np.abs(np.subtract.outer(np.arange(len(nodes)), np.arange(len(nodes)))).astype(float)
        covariance = ((k + 1) ** (2 * hurst) - 2 * k ** (2 * hurst) + np.abs(k - 1) ** (2 * hurst)) / 2
        return np.linalg.cholesky(covariance)

    return mix


def _check_variables(module: nnx.Module) -> None:
    """Refuses what a solve cannot carry: state other than batch statistics and random streams."""
    for path, node in nnx.iter_graph(module):
        if isinstance(node, (nnx.Cache, nnx.Intermediate)):
            raise ValueError(
                f"the field holds mutable state ({type(node).__name__} at '{_dotted(path)}'), which a solve cannot carry; "
                "a field may hold batch statistics (nnx.BatchStat) and random streams, other state stays around it"
            )


def _check_statistics(basis: Basis, stack: nnx.Module) -> None:
    """Refuses batch statistics where depth has no cells of its own for them."""
    for path, node in nnx.iter_graph(stack):
        if isinstance(node, nnx.BatchStat) and not isinstance(basis, PiecewiseConstant):
            raise ValueError(
                f"batch statistics ('{_dotted(path)}') belong to the cells of depth, and {basis} has values that reach across "
                f"them; take nf.PiecewiseConstant({basis.count}), or a norm without state (GroupNorm, LayerNorm)"
            )


def _dotted(path: Any) -> str:
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

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], basis: Basis, *, rngs: nnx.Rngs, init: Init = independent):
        if not callable(make) or isinstance(make, nnx.Module):
            raise TypeError(
                f"make must be a function of rngs that builds a module, got a {type(make).__name__}: lambda rngs: ..."
            )
        checks.instance("basis", basis, Basis, "a depth basis such as nf.PiecewiseConstant(16)")
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        checks.function("init", init)
        nodes = np.asarray(basis.nodes)
        mix = np.asarray(init(nodes))
        if mix.ndim != 2 or len(mix) != len(nodes):
            raise ValueError(f"init must return a ({len(nodes)}, draws) matrix, got shape {mix.shape}")
        draws = nnx.vmap(lambda key: _made(make(nnx.Rngs(key))))(jax.random.split(rngs.params(), mix.shape[1]))
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
            raise ValueError(f"{basis} takes {basis.size} modules, one per node, got {len(modules)}")
        return cls.from_stack(_coefficients(basis, _stack(modules), np.eye(basis.size)), basis)

    @classmethod
    def from_stack(cls, stack: nnx.Module, basis: Basis) -> DepthVarying:
        """The function of depth whose coefficients are the parameters of `stack`, along a leading axis of basis.size each."""
        sizes = {np.shape(raw(leaf))[:1] for leaf in _flatten(nnx.state(stack, nnx.Not(nnx.RngState)))[1]}
        if sizes - {(basis.size,)}:
            raise ValueError(f"{basis} takes coefficients with a leading axis of {basis.size}, got {sorted(sizes)}")
        _check_statistics(basis, stack)
        # NNX makes modules by their __init__ alone, so an empty one is filled.
        field = cls(lambda rngs: nnx.Module(), basis, rngs=nnx.Rngs(0), init=tied)
        field.stack = stack
        return field

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a DepthVarying has no weights until its depth is known; call field.at(s)(x), or put it in a NeuralODE")

    def at(self, s: float, side: Side = "right") -> nnx.Module:
        """The plain module at normalised depth s; at a knot `side` names the one-sided limit."""
        checks.choice("side", side, ("left", "right"))
        cell, local = depth_basis.locate(self.basis, np.asarray(s), side)

        def value(coefficients: Array) -> Array:
            return self.basis.combine(self.basis.window(coefficients, jnp.asarray(cell)), jnp.asarray(local))

        return _map_arrays(value, self.stack)

    def refine(self, finer: Basis) -> DepthVarying:
        """The same weights on a basis that contains this one; ValueError where it does not."""
        checks.instance("the finer basis", finer, Basis, "a depth basis such as nf.PiecewiseConstant(16)")
        return self._transform(finer, depth_basis.refinement(self.basis, finer))

    def project(self, target: Basis) -> DepthVarying:
        """The L2-nearest weights on another basis; the same weights where that basis contains this one."""
        checks.instance("the target basis", target, Basis, "a depth basis such as nf.PiecewiseConstant(16)")
        return self._transform(target, depth_basis.projection(self.basis, target))

    def _transform(self, target: Basis, matrix: np.ndarray) -> DepthVarying:
        return self.from_stack(_map_arrays(lambda coefficients: _apply(matrix, coefficients), self.stack), target)


def _coefficients(basis: Basis, draws: nnx.Module, mix: np.ndarray) -> nnx.Module:
    """A module of stacked draws as one of stacked coefficients."""
    matrix = depth_basis.interpolation(basis) @ mix
    constant = depth_basis.interpolation(basis) @ np.ones(basis.size)
    plain = np.array_equal(matrix, np.eye(len(matrix)))

    def coefficients(values: Array) -> Array:
        if not jnp.issubdtype(values.dtype, jnp.inexact):
            raise TypeError(f"weights that vary with depth must be floating, got {values.dtype}; keep others outside make()")
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


def _made(module: Any) -> nnx.Module:
    if not isinstance(module, nnx.Module):
        raise TypeError(f"make(rngs) must return an nnx.Module, got {type(module).__name__}; wrap functions with from_function")
    _check_variables(module)
    if any(isinstance(node, DepthVarying) for _, node in nnx.iter_graph(module)):
        raise ValueError("a DepthVarying inside a DepthVarying has no meaning; vary the weights once")
    return module


def _map_arrays(
    function: Callable[[Array], Array], module: nnx.Module, streams: Callable[[Array], Array] = lambda stream: stream
) -> nnx.Module:
    """A new module with the function applied to every array (`streams` to random ones), shared submodules kept shared."""
    graphdef, random, state = nnx.split(module, nnx.RngState, ...)
    return nnx.merge(graphdef, jax.tree.map(streams, random), jax.tree.map(function, state))


def _stack(modules: Sequence[nnx.Module]) -> nnx.Module:
    """Modules of one structure as one module with a new leading axis; ValueError where they differ."""
    parts = [nnx.split(_made(module)) for module in modules]
    graphdef, first = parts[0]
    want = _shapes(first)
    for k, (other, state) in enumerate(parts):
        if _shapes(state) != want:
            raise ValueError(f"module {k} has parameters {_shapes(state)}, module 0 has {want}; give modules of one kind")
        if other != graphdef:
            raise ValueError(f"module {k} is built differently from module 0; give modules of one class and one set of options")
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in parts)))


def _shapes(state: Any) -> dict[str, str]:
    return {_dotted(path): f"{raw(leaf).dtype}{list(raw(leaf).shape)}" for path, leaf in nnx.to_flat_state(state)}


def depth_bases(module: nnx.Module) -> dict[tuple[Any, ...], Basis]:
    """The basis of every parameter that varies with depth, by its path in the module's state."""
    bases = _bases_by_id(module)
    return {path: bases[id(leaf)] for path, leaf in nnx.iter_graph(module) if isinstance(leaf, nnx.Param) and id(leaf) in bases}


def _bases_by_id(module: nnx.Module) -> dict[int, Basis]:
    """The basis of every array that varies with depth, by the identity of what holds it."""
    found: dict[int, Basis] = {}
    for _, node in nnx.iter_graph(module):
        if isinstance(node, DepthVarying):
            leaves = [leaf for _, leaf in nnx.iter_graph(node.stack) if _is_leaf(leaf)]
            found.update({id(leaf): node.basis for leaf in leaves if not isinstance(leaf, nnx.RngState)})
    return found


class Unfolded:
    """A field taken apart for a solve: arrays, and for each the basis it varies on (None: constant in depth).

    A `DepthVarying` anywhere in the field is replaced by the module it varies, so that the user's own code calls a
    plain module at every stage. Holds no tracer: `values` are handed around beside it.
    """

    def __init__(self, field: nnx.Module):
        _check_variables(field)
        bases = _bases_by_id(field)
        plain = _unwrap(field)
        tagged = {path: bases.get(id(leaf)) for path, leaf in nnx.iter_graph(plain) if _is_leaf(leaf)}
        self._graphdef, state = nnx.split(plain)
        self._paths, leaves = _flatten(state)
        self._kinds = [leaf if isinstance(leaf, nnx.Variable) else None for leaf in leaves]
        self.tags = [tagged[path] for path in self._paths]
        self.bases: list[Basis] = list(dict.fromkeys(tag for tag in self.tags if tag is not None))

    @staticmethod
    def values(field: nnx.Module) -> list[Array]:
        """The field's arrays, in the order of `tags`."""
        return [raw(leaf) for leaf in _flatten(nnx.split(_unwrap(field))[1])[1]]

    def module(self, values: Sequence[Array]) -> nnx.Module:
        """The user's module with these arrays."""
        leaves = [value if kind is None else kind.replace(value) for kind, value in zip(self._kinds, values, strict=True)]
        return nnx.merge(self._graphdef, nnx.from_flat_state(list(zip(self._paths, leaves, strict=True))))

    def at(self, values: Sequence[Array], places: dict[Basis, tuple[Any, Any]]) -> nnx.Module:
        """The user's module at one depth: `places` holds the cell of each basis, and where in it."""
        arrays = []
        for basis, value in zip(self.tags, values, strict=True):
            if basis is not None:
                cell, s = map(jnp.asarray, places[basis])
                value = basis.combine(basis.window(value, cell), s)
            arrays.append(value)
        return self.module(arrays)

    @staticmethod
    def variables(field: nnx.Module) -> list[Any]:
        """The field's own variables, in the order of `tags`: where new state is written to."""
        plain = _unwrap(field)
        held = {path: leaf for path, leaf in nnx.iter_graph(plain) if _is_leaf(leaf)}
        return [held[path] for path in _flatten(nnx.split(plain)[1])[0]]

    @property
    def streams(self) -> list[bool]:
        """Which arrays are the keys of random streams."""
        return [isinstance(kind, nnx.RngKey) for kind in self._kinds]

    def changes(self, module: nnx.Module, values: Sequence[Array]) -> dict[int, Array]:
        """The state that a call has replaced in `module`, by its place; ValueError for what is not state of a field."""
        paths, leaves = _flatten(nnx.split(module)[1])
        odd = sorted(set(paths) ^ set(self._paths))
        pairs = enumerate(zip(leaves, values, strict=True)) if not odd else []
        found = {i: raw(leaf) for i, (leaf, value) in pairs if raw(leaf) is not value}
        odd += [paths[i] for i in found if not isinstance(self._kinds[i], nnx.BatchStat | nnx.RngCount)]
        if odd:
            raise ValueError(
                f"the field changed its own state ('{_dotted(odd[0])}') while it was evaluated, which a solve cannot carry; "
                "return what it computes instead, or keep such layers around the NeuralODE"
            )
        return found

    def is_statistic(self, i: int) -> bool:
        """Whether an array is a batch statistic."""
        return isinstance(self._kinds[i], nnx.BatchStat)

    def name(self, i: int) -> str:
        """The name of an array in the field."""
        return _dotted(self._paths[i])


def _is_leaf(node: Any) -> bool:
    return isinstance(node, (nnx.Variable, jax.Array, np.ndarray))


def raw(leaf: Any) -> Any:
    """The value of a variable; anything else as it is."""
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def _flatten(state: Any) -> tuple[list[Any], list[Any]]:
    flat = list(nnx.to_flat_state(state))
    return [path for path, _ in flat], [leaf for _, leaf in flat]


def _unwrap(field: nnx.Module) -> nnx.Module:
    """The field with every DepthVarying replaced by its stack."""
    return nnx.recursive_map(lambda _, node: node.stack if isinstance(node, DepthVarying) else node, field)
