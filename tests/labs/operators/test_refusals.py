"""What the laboratory of operators refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from refusals import refuses
from support.operators import D, V, equation
from support.wrong import wrong

import neuralflow as nf
from neuralflow.labs import operators as op

RGB: dict[str, Any] = dict(dimension=2, rngs=nnx.Rngs(0))
REFUSED = {
    "an even kernel": (
        lambda: op.to_operator(np.ones((2, 2))),
        "even size has no point in the middle.*got size 2",
    ),
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
    "no dimensions": (lambda: op.to_kernel(wrong(1.0)), "one or two dimensions"),
    "complex numbers": (
        lambda: op.to_operator(np.asarray([1j, 0, 0])),
        "real numbers, got complex",
    ),
    "a length of zero": (
        lambda: op.to_operator(np.asarray([1.0, 0, 0]), 0.0),
        "spacing is a positive length",
    ),
    "lengths of other axes": (
        lambda: op.to_operator(np.ones((3, 3)), (1.0, 2.0, 3.0)),
        "one for each of 2 axes",
    ),
    "a stencil of too few points": (
        lambda: op.stencil(3),
        "derivatives below 3, got 3; take size=5",
    ),
    "a formula of many channels": (
        lambda: op.formula(np.ones((3, 3, 2, 2))),
        "one pair of channels",
    ),
    "shares of what is not finite": (
        lambda: op.shares(np.asarray([np.nan, 1, 0])),
        "finite coefficients",
    ),
    "a formula of what is not finite": (
        lambda: op.formula(np.asarray([np.inf, 1, 0])),
        "finite coefficients",
    ),
    "too many points": (lambda: op.to_operator(np.ones(17)), "at most 15 points"),
    "no points": (lambda: op.to_operator(np.ones((3, 0))), "at least one number"),
    "a stack of kernels": (
        lambda: op.read(
            nnx.vmap(lambda key: nnx.Conv(1, 1, (3,), rngs=nnx.Rngs(key)))(
                jax.random.split(jax.random.key(0), 5)
            )
        ),
        "'Conv': it is a stack of kernels",
    ),
    "integers": (
        lambda: equation(0, 0, D)(jnp.ones((1, 4, 1), int)),
        "takes floating arrays.*got int",
    ),
    "an odd number of frequencies": (
        lambda: op.stable_step(equation(0, 0, D), nf.Euler(), 5),
        "an even number",
    ),
    "a potential with a corner": (
        lambda: op.spectrum(op.parabolic(2, potential=jax.nn.relu, rngs=nnx.Rngs(0))),
        "no bound between -30 and 30",
    ),
    "a seed for keys": (lambda: op.parabolic(2, rngs=wrong(0)), "rngs must be nnx.Rngs"),
    "numbers that are not finite": (
        lambda: op.stable_step(equation(0, 0, np.nan), nf.Euler()),
        "finite kernel",
    ),
    "coefficients of another shape": (
        lambda: op.DifferentialOperator(1, 1, coefficients=np.ones(6)),
        r"have shape \(6, 1, 1\)",
    ),
    "neither coefficients nor keys": (
        lambda: op.DifferentialOperator(1, 1),
        "takes its coefficients, or rngs.*got rngs=None",
    ),
    "another boundary": (
        lambda: op.DifferentialOperator(1, 1, boundary=wrong("zero"), **RGB),
        "boundary must be one of",
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
