"""Masks for optimisers: which parameters an optimiser treats as matrices.

A parameter that varies with depth has a leading axis of coefficients. The axis hides from an
optimiser that a bias is a vector at every depth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flax import nnx

from neuralflow import checks
from neuralflow.depth.flattened import depth_bases
from neuralflow.depth.varying import raw

_VECTORS = ("bias", "scale")


def decayed(model: nnx.Module) -> Any:
    """Return which parameters are kernels, as a mask for weight decay.

    A kernel has more than one axis at one depth. Biases and the scales of norms are left out of
    weight decay as a rule. The leading axis of the coefficients of a `DepthVarying` does not count
    as an axis. The usual mask `ndim > 1` would count it. A parameter named `bias` or `scale` is
    left out whatever its shape: the biases of flax's attention have two axes.

    The mask fits every argument `mask` of optax, and `weight_decay_mask` of `optax.contrib.muon`.
    An optimizer `wrt` a part of the model takes the same part of the mask, such as
    `nnx.filter_state(mask, nnx.PathContains("head"))`.
    The last two axes of a kernel are its rows and columns. So the mask also says which parameters
    Muon treats as matrices, as the example shows. A stacked kernel `(n, a, b)` is then n matrices
    of shape `(a, b)`. A kernel of a convolution is one matrix for every place of its window. The
    kernels of flax's attention have three axes at one depth, so tell Muon their rows and columns.

    Args:
        model: A field, a layer or any other module, with `DepthVarying` anywhere inside.

    Returns:
        A state of booleans, in the form of `nnx.state(model, nnx.Param)`.

    Raises:
        InputTypeError: `model` is not an `nnx.Module`.

    Example:
        >>> import jax
        >>> import neuralflow as nf
        >>> import optax
        >>> from flax import nnx
        >>> from optax.contrib import MuonDimensionNumbers, muon
        >>> make = lambda rngs: nnx.Linear(2, 3, rngs=rngs)
        >>> field = nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0))
        >>> mask = nf.depth.decayed(field)
        >>> mask.stack.kernel, mask.stack.bias
        (True, False)
        >>> optimizer = nnx.Optimizer(field, optax.adamw(1e-3, mask=mask), wrt=nnx.Param)
        >>> axes = jax.tree.map(lambda m: MuonDimensionNumbers(-2, -1) if m else None, mask)
        >>> rule = muon(1e-3, weight_decay_mask=mask, muon_weight_dimension_numbers=axes)
        >>> optimizer = nnx.Optimizer(field, rule, wrt=nnx.Param)
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module, as in mask=decayed(model)")
    varying = depth_bases(model)
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return nnx.from_flat_state(
        [
            (path, path[-1] not in _VECTORS and np.ndim(raw(leaf)) - (path in varying) > 1)
            for path, leaf in flat
        ]
    )
