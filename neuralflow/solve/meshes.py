"""Solves on meshes with explicit axes, where the types of arrays carry their shardings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
from jax.sharding import NamedSharding, PartitionSpec, auto_axes
from jaxtyping import PyTree


def spread(
    run: Callable[[Any], Any], arrays: PyTree, x: PyTree, outputs: Callable[[PyTree], PyTree]
) -> Any:
    """Run a function of arrays, and let the compiler spread the work on explicit axes.

    The loops of solvers carry arrays whose shardings the types of explicit axes would have to
    follow. Without explicit axes, the function runs as it is.

    Args:
        run: The function.
        arrays: The arguments of the function, one pytree.
        x: The states among the arrays.
        outputs: A function from the partition specs of x to the partition specs of the results. The
            latter are a prefix of the results.

    Returns:
        The results of the function.
    """
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(arrays))
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return run(arrays)
    specs = outputs(jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, x))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)
    spread_run = cast(Any, auto_axes)(run, axes=mesh.explicit_axes, out_sharding=shardings)
    return spread_run(arrays)


def is_spec(value: Any) -> bool:
    """Return whether a value is a partition spec, which is a leaf of a pytree of specs."""
    return isinstance(value, PartitionSpec)
