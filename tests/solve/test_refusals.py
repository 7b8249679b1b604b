"""What solves refuse, and what they say where numbers fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refusals import refuses
from support.wrong import wrong

import neuralflow as nf


def _field(f):
    return nf.from_function(lambda p, x: f(x))


X = jnp.ones((2, 3))
EULER = nf.FixedGrid(nf.Euler(), steps=4)
REFUSED = {
    "structure": (lambda: nf.NeuralODE(_field(lambda x: (x, x)), EULER)(X), "structure of x"),
    "shape": (
        lambda: nf.NeuralODE(_field(lambda x: x[:1]), EULER)(X),
        r"shape of x, \(2, 3\), got \(1, 3\)",
    ),
    "dtype": (
        lambda: nf.NeuralODE(_field(lambda x: x.astype(jnp.float32)), EULER)(X),
        "dtype of x, float64, got float32",
    ),
    "adaptive shape": (
        lambda: nf.NeuralODE(_field(lambda x: x[:1]), nf.Adaptive(nf.Tsit5()))(X),
        "shape of x",
    ),
    "not a module": (lambda: nf.NeuralODE(wrong(jnp.tanh), EULER), "wrap it: nf.from_function"),
    "not callable": (lambda: nf.NeuralODE(nnx.Module(), EULER), "must be callable"),
    "args": (lambda: nf.NeuralODE(nnx.Sequential(), EULER), r"\*args.*wrap it"),
    "no steps": (lambda: nf.FixedGrid(nf.Euler(), steps=0), "at least 1"),
    "half a step": (lambda: nf.FixedGrid(nf.Euler(), steps=wrong(1.5)), "whole number"),
    "steps and times": (lambda: nf.FixedGrid(nf.Euler(), steps=2, times=(0, 1)), "exactly one"),
    "neither": (lambda: nf.FixedGrid(nf.Euler()), "exactly one"),
    "times fall": (lambda: nf.FixedGrid(nf.Euler(), times=(0, 0.7, 0.5, 1)), "strictly increasing"),
    "times beyond one": (lambda: nf.FixedGrid(nf.Euler(), times=(0, 1, 2)), "from 0 to 1"),
    "memory": (
        lambda: nf.FixedGrid(nf.Euler(), steps=2, memory=wrong("tiny")),
        "'full', 'remat', 'two_level'",
    ),
    "scheme class": (lambda: nf.FixedGrid(wrong(nf.Euler), steps=2), r"write Euler\(\)"),
    "scheme name": (lambda: nf.FixedGrid(wrong("euler"), steps=2), "diffrax solver"),
    "no error estimate": (lambda: nf.Adaptive(nf.RK4()), "no error estimate"),
    "euler adaptive": (lambda: nf.Adaptive(nf.Euler()), "no error estimate"),
    "tolerance": (lambda: nf.Adaptive(nf.Tsit5(), rtol=-1.0), "rtol must be"),
    "both zero": (lambda: nf.Adaptive(nf.Tsit5(), rtol=0.0, atol=0.0), "both zero"),
    "max_steps": (lambda: nf.Adaptive(nf.Tsit5(), max_steps=0), "max_steps must be at least 1"),
    "gradient": (
        lambda: nf.Adaptive(nf.Tsit5(), gradient=wrong("adjoint")),
        "'steps', 'direct', 'continuous'",
    ),
    "tolerance in words": (
        lambda: nf.Adaptive(nf.Tsit5(), rtol=wrong("1e-3")),
        "one finite number >= 0",
    ),
    "tolerances": (lambda: nf.Adaptive(nf.Tsit5(), rtol=jnp.ones(3)), "one finite number >= 0"),
    "per_sample": (lambda: nf.Adaptive(nf.Tsit5(), per_sample=wrong("yes")), "one of True, False"),
    "interval in words": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER, 0.0, wrong("1")),
        "one finite number",
    ),
    "intervals": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER, 0.0, jnp.ones(3)),
        "one finite number",
    ),
    "list": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER)([[0.1, 0.2]]),
        r"write jnp.asarray\(x\)",
    ),
    "no depths": (lambda: nf.NeuralODE(_field(jnp.tanh), EULER).trajectory(X, []), "at least one"),
    "depths in words": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER).trajectory(X, wrong("all")),
        "one-dimensional",
    ),
    "no samples": (
        lambda: nf.NeuralODE(_field(jnp.tanh), nf.Adaptive(nf.Tsit5(), per_sample=True))(
            jnp.ones(())
        ),
        "x has no axis",
    ),
    "branches of what": (lambda: nf.to_branches(wrong(_field(jnp.tanh))), "must be a NeuralODE"),
    "a function as branch": (lambda: nf.from_branches(wrong([lambda x: x])), "wrap functions"),
    "one branch": (lambda: nf.from_branches(wrong(_field(jnp.tanh))), "sequence of at least one"),
    "empty interval": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER, 1.0, 1.0),
        "interval is empty",
    ),
    "infinite interval": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER, 0.0, np.inf),
        "one finite number",
    ),
    "solve": (
        lambda: nf.NeuralODE(_field(jnp.tanh), wrong(nf.Euler())),
        "FixedGrid or an Adaptive",
    ),
    "integers": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER)(jnp.ones((2, 3), int)),
        "hand them over as context",
    ),
    "two precisions": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER)((X, X.astype(jnp.bfloat16))),
        "one precision throughout, got bfloat16, float64",
    ),
    "bfloat16 in adaptive steps": (
        lambda: nf.NeuralODE(_field(jnp.tanh), nf.Adaptive(nf.Tsit5()))(X.astype(jnp.bfloat16)),
        "adaptive solve needs x to be in float32 or float64",
    ),
    "bfloat16 in implicit steps": (
        lambda: nf.NeuralODE(_field(jnp.tanh), nf.FixedGrid(nf.ImplicitEuler(), steps=2))(
            X.astype(jnp.bfloat16)
        ),
        "equations of a step of ImplicitEuler need x to be in float32 or float64",
    ),
    "bfloat16 walked back": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER).invert(X.astype(jnp.bfloat16)),
        "walks back over the steps and needs x to be in float32 or float64",
    ),
    "bfloat16 in reversible memory": (
        lambda: nf.NeuralODE(
            _field(jnp.tanh), nf.FixedGrid(nf.schemes.leapfrog(), steps=4, memory="reversible")
        )(X.astype(jnp.bfloat16)),
        'memory="reversible" walks back',
    ),
    "depths outside": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER).trajectory(X, [0.0, 2.0]),
        "direction of the walk",
    ),
    "depths fall": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER).trajectory(X, [0.5, 0.2]),
        "direction of the walk",
    ),
    "adaptive trajectory": (
        lambda: nf.NeuralODE(_field(jnp.tanh), nf.Adaptive(nf.Tsit5())).trajectory(X),
        "ask for depths",
    ),
}


test_static_mistakes_are_refused_in_one_sentence = refuses(REFUSED)


def test_state_changed_inside_a_field_is_refused():
    class Counts(nnx.Module):
        def __init__(self):
            self.count = nnx.Variable(jnp.zeros(()))

        def __call__(self, x):
            self.count.set_value(self.count.get_value() + 1)
            return -x

    for solve in (EULER, nf.Adaptive(nf.Tsit5())):
        with pytest.raises(ValueError, match="changed its own state .'count'."):
            nf.NeuralODE(Counts(), solve)(X)


FAILURES = {
    "nan in x": (nf.NeuralODE(_field(jnp.tanh), EULER), X.at[0, 0].set(jnp.nan), "x held 1 values"),
    "nan in x, adaptive": (
        nf.NeuralODE(_field(jnp.tanh), nf.Adaptive(nf.Tsit5(), max_steps=50)),
        X.at[0, 0].set(jnp.nan),
        "x held 1 values",
    ),
    "nan in weights": (
        nf.NeuralODE(nf.from_function(lambda p, x: p * x, jnp.asarray(jnp.nan)), EULER),
        X,
        "weights of the field held 1",
    ),
    "max_steps": (
        nf.NeuralODE(_field(jnp.tanh), nf.Adaptive(nf.Tsit5(), 1e-12, 1e-12, max_steps=3)),
        X,
        r"max_steps=3 .*implicit",
    ),
    "stiff, adaptive": (
        nf.NeuralODE(_field(lambda x: -1e6 * (x - 2)), nf.Adaptive(nf.Tsit5(), max_steps=100)),
        X,
        "if the field is stiff",
    ),
    "stiff, fixed": (
        nf.NeuralODE(_field(lambda x: -1e4 * (x - 2)), nf.FixedGrid(nf.Heun(), steps=100)),
        X,
        "implicit scheme",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_numerical_failure_raises_once_outside_a_trace_and_is_nan_inside(case):
    layer, x, said = FAILURES[case]
    with pytest.raises(nf.SolveError, match=said) as caught:
        layer(x)
    assert caught.value.status != nf.Status.SUCCESSFUL
    inside = jax.jit(layer.solve)(x)
    assert inside.status != 0
    assert not jnp.isfinite(jax.jit(layer.__call__)(x)).all()


def test_a_block_that_does_not_contract_cannot_be_inverted():
    layer = nf.NeuralODE(_field(lambda x: -3.0 * jnp.sin(9 * x)), nf.FixedGrid(nf.Euler(), steps=2))
    with pytest.raises(nf.SolveError, match="Lipschitz"):
        layer.invert(X)


def test_a_velocity_that_is_not_finite_is_called_so():
    field = nf.from_function(lambda params, x: x / (0 * x))
    with pytest.raises(nf.SolveError, match="is not finite where the solve begins"):
        nf.NeuralODE(field, nf.Adaptive(nf.Tsit5()))(jnp.ones((2, 1)))
    with pytest.raises(nf.SolveError, match=r"MAX_STEPS.* 0 accepted .* field\(x\) is finite"):
        nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), max_steps=20))(jnp.ones((2, 1)))
