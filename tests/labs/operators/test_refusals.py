"""What the laboratory of operators refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from refusals import refuses
from support.operators import D, V, equation

import neuralflow as nf
from neuralflow.labs import operators as op

RGB: dict[str, Any] = dict(dimension=2, rngs=nnx.Rngs(0))
REFUSED = {
    "an even kernel in a model": (
        lambda: op.read(nnx.Conv(1, 1, (2, 2), rngs=nnx.Rngs(0))),
        "even size",
    ),
    "three dimensions": (
        lambda: op.to_operator(np.ones((3, 3, 3, 1, 1))),
        "one or two dimensions.*got shape",
    ),
    "a convolution in space": (
        lambda: op.read(nnx.List([nnx.Conv(1, 1, (3, 3, 3), rngs=nnx.Rngs(0))])),
        "'0': .*one or two dim",
    ),
    "a stack of kernels": (
        lambda: op.read(
            nnx.vmap(lambda key: nnx.Conv(1, 1, (3,), rngs=nnx.Rngs(key)))(
                jax.random.split(jax.random.key(0), 5)
            )
        ),
        "'Conv': it is a stack of kernels",
    ),
    "a potential with a corner": (
        lambda: op.spectrum(op.parabolic(2, potential=jax.nn.relu, rngs=nnx.Rngs(0))),
        "no bound between -30 and 30",
    ),
    "coefficients of another shape": (
        lambda: op.DifferentialOperator(1, 1, coefficients=np.ones(6)),
        r"have shape \(6, 1, 1\)",
    ),
    "neither coefficients nor keys": (
        lambda: op.DifferentialOperator(1, 1),
        "takes its coefficients, or rngs.*got rngs=None",
    ),
    "channels that are not there": (
        lambda: op.DifferentialOperator(2, 2, **RGB)(jnp.ones((1, 4, 4, 3))),
        "2 channels behind them, got float64 of shape",
    ),
    "a spectrum of something else": (
        lambda: op.spectrum(nf.fields.MLP(2, hidden=2, rngs=nnx.Rngs(0))),
        "waves of a MLP",
    ),
    "a spectrum that is no field's": (
        lambda: op.spectrum(op.DifferentialOperator(2, 3, **RGB)),
        "from 2 to 3 channels",
    ),
    "a potential without bound": (
        lambda: op.spectrum(op.parabolic(2, potential=lambda x: x**4, rngs=nnx.Rngs(0))),
        "no bound",
    ),
    "an adaptive layer": (
        lambda: op.check(nf.NeuralODE(equation(0, 0, D), nf.Adaptive(nf.Tsit5(), 1e-3, 1e-3))),
        "chooses stable steps by itself",
    ),
    "Euler on pure convection": (
        lambda: op.check(nf.NeuralODE(equation(0, V, 0), nf.FixedGrid(nf.Euler(), steps=1000))),
        "Euler has no stable step",
    ),
}


test_bad_input_is_refused_in_one_sentence = refuses(REFUSED)
