"""What is not a plain net, and options that do not apply."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.plain_net import NET, drawn, relu, tanh

from neuralflow.labs import plain_net


@pytest.mark.parametrize(
    "net, sentence",
    [
        ([(np.eye(2), np.zeros(2), jax.nn.silu)], "falls near"),
        ([(np.eye(2), np.zeros(2), jnp.sin)], "falls near"),
        ([(np.eye(2), np.zeros(2), jax.nn.softmax)], "no function of single numbers"),
        ([(np.eye(2), np.zeros(2), lambda x: jnp.where(x > 50, 100 - x, x))], "falls near 5"),
        ([(np.eye(2), np.zeros(2), jnp.log)], "is not finite at -30"),
        # These are the identity on numbers alone, and on numbers in rising order.
        ([(np.eye(2), np.zeros(2), jnp.sort)], "no function of single numbers"),
        ([(np.eye(2), np.zeros(2), jax.lax.cummax)], "no function of single numbers"),
        ([(np.eye(2), np.zeros(2), "relu")], "must be a function"),
        ([(np.eye(2) * 1j, np.zeros(2), relu)], "must be real numbers .*, got an array complex128"),
        ([(np.full((2, 2), np.nan), np.zeros(2), relu)], "4 numbers that are not"),
        ([(np.eye(2), np.array([0, np.inf]), relu)], "1 numbers that are not"),
        (
            [(np.eye(2), np.zeros(2), relu), (np.eye(3), np.zeros(3), relu)],
            "gives 2 numbers, but the next one takes 3",
        ),
        ([(np.eye(2), np.zeros(3), relu)], "b of layer 0 holds 3 numbers, but W gives 2"),
        ([(np.zeros(2), np.zeros(2), relu)], r"W of layer 0 must have shape \(out, in\)"),
        ([relu], "layer 0 of a plain net is an nnx.Linear"),
        ([], "a plain net is an nnx.Sequential or a sequence"),
        (3, "give its layers in their order"),
    ],
)
def test_bad_nets(net, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        plain_net.as_flow(net)


def test_bad_options():
    for call, sentence in (
        (
            lambda: plain_net.as_resnet(NET, activation="relaxed", steps=2),
            "takes at least as many steps, got 2",
        ),
        (
            lambda: plain_net.as_resnet(drawn([2, 2, 2], tanh)),
            'exact blocks are for relu and leaky_relu, got tanh; take activation="lin',
        ),
        (
            lambda: plain_net.as_resnet(drawn([2, 2, 2], tanh), activation="relaxed", steps=20),
            "for relu alone, got tanh",
        ),
        *(
            (
                lambda s=s: plain_net.as_resnet(drawn([2, 2, 2], s)),
                "exact blocks are for relu and leaky_relu",
            )
            for s in (
                jax.nn.relu6,
                lambda x: jnp.clip(x, -5, 5),
                lambda x: relu(x) + 1e-3 * relu(x - 100),
                lambda x: (1 + 1e-9) * relu(x),
            )
        ),
        (
            lambda: plain_net.as_resnet(
                drawn([2, 2, 2], jax.nn.relu6), activation="relaxed", steps=20
            ),
            "for relu alone, got relu6",
        ),
        (lambda: plain_net.decompose(np.eye(3), 2), "does not fit into 2 dimensions"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_formulas_that_lose_their_digits_far_out_are_taken():
    """In float32 squareplus rounds to zero and back from -4e3 on, and powers overflow."""
    with jax.enable_x64(False):
        for activation in (jax.nn.squareplus, jnp.sinh, lambda x: x**5, jax.nn.softplus):
            net = [(np.eye(2), np.zeros(2), activation)]
            assert plain_net.read(net)[0].activation is activation
