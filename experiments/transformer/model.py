"""A causal character model whose blocks are one field, walked by a scheme, and its training.

The field is the sum of attention and a perceptron on every token. The scheme says which
transformer it is: the ordinary block (`lie-trotter`), the parallel block (`euler`), the Macaron
block (`macaron`), or a splitting of order two (`strang`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

import neuralflow as nf
from experiments.transformer.text import ALPHABET, windows
from neuralflow import checks, training
from neuralflow.checks import InputError

SCHEMES = {
    "lie-trotter": nf.schemes.LieTrotter(),
    "euler": nf.Euler(),
    "macaron": nf.schemes.Strang(nf.Euler()),
    "strang": nf.schemes.Strang(),
}
_SMALL = nnx.initializers.normal(0.02)
# The blocks norm their input, so that what they add has size one: tokens must not drown in it.
_TOKENS = nnx.initializers.normal(1.0)
_POSITIONS = nnx.initializers.normal(0.2)


class Model(nnx.Module):
    """A model from tokens `(batch, tokens)` to logits of the next tokens.

    Args:
        depth: The number of blocks, cells of depth and steps alike.
        width: The dimension of a token's state.
        heads: The number of heads of attention.
        context: The number of positions, the most tokens that the model takes.
        scheme: A name of SCHEMES.
        step: The length of a step, by which the velocity of every block is multiplied.
        init: How the blocks begin in depth, such as `nf.independent` or `nf.tied`.
        rngs: The random streams that draw the weights.
    """

    def __init__(
        self,
        depth: int,
        *,
        width: int = 64,
        heads: int = 4,
        context: int = 64,
        scheme: str = "lie-trotter",
        step: float = 1.0,
        init: Any = nf.independent,
        rngs: nnx.Rngs,
    ):
        checks.choice("scheme", scheme, tuple(SCHEMES))

        def split(rngs: nnx.Rngs) -> nf.fields.Split:
            attention = nf.fields.Attention(width, heads=heads, causal=True, rngs=rngs)
            perceptron = nf.fields.FeedForward(width, hidden=4 * width, rngs=rngs)
            # A Macaron block has attention in its middle.
            middle = isinstance(SCHEMES[scheme], nf.schemes.Strang)
            parts = (perceptron, attention) if middle else (attention, perceptron)
            return nf.fields.Split(*parts)

        field = nf.DepthVarying(split, nf.PiecewiseConstant(depth), rngs=rngs, init=init)
        grid = nf.FixedGrid(SCHEMES[scheme], steps=depth)
        self.embedding = nnx.Embed(len(ALPHABET), width, embedding_init=_TOKENS, rngs=rngs)
        self.positions = nnx.Param(_POSITIONS(rngs.params(), (context, width), jnp.float32))
        self.flow = nf.NeuralODE(field, grid, 0.0, depth * step)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, len(ALPHABET), kernel_init=_SMALL, rngs=rngs)

    @property
    def context(self) -> int:
        """The number of positions."""
        return len(self.positions[...])

    def __call__(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens 96"]:
        length = tokens.shape[1]
        if length > self.context:
            raise InputError(
                f"tokens must be at most {self.context} in a row, the positions of the model, got "
                f"{length}; cut them, or build the model with context={length}"
            )
        x = self.embedding(tokens) + self.positions[:length]
        return self.head(self.norm(self.flow(x)))


def bits(model: Any, batch: dict[str, Array]) -> Array:
    """Return the mean bits per character that the model needs for the tokens of windows."""
    tokens = batch["tokens"]
    losses = optax.softmax_cross_entropy_with_integer_labels(model(tokens[:, :-1]), tokens[:, 1:])
    return losses.mean() / np.log(2)


def train(
    model: Model,
    tokens: np.ndarray,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch: int = 16,
    loss: Any = bits,
    seed: int = 0,
    every: int = 100,
    folder: Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool | str = False,
    after: training.Fitted | None = None,
) -> training.Fitted:
    """Train a model on windows that every step draws anew, by a key of the seed and the step.

    An epoch is `every` steps, or all of them. With a folder, a training that was interrupted goes
    on. `steps` counts those of an earlier training, `after`, too.
    """
    whole, every = jnp.asarray(tokens), min(every, steps)

    def drawn(places: dict[str, Array], key: Array) -> dict[str, Array]:
        return {"tokens": windows(whole, len(places["window"]), model.context, key)}

    return training.fit(
        model, loss, optimiser, {"window": np.zeros(every * batch, np.uint8)},
        epochs=steps // every, batch=batch, augment=drawn, seed=seed, folder=folder,
        resume=folder is not None, settings=settings, progress=progress,
        after=after,
    )  # fmt: skip


def cosine(rate: float, steps: int) -> optax.Schedule:
    """Return the learning rate: a tenth of the steps rising to `rate`, then falling as a cosine."""
    return optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps, rate / 100)


def by_part(
    flow: optax.GradientTransformation, rest: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Return the optimiser that trains the blocks by one optimiser, and all the rest by another."""

    def names(params: Any) -> Any:
        return jax.tree.map_with_path(
            lambda path, _: "flow" if path[0].key == "flow" else "rest", params
        )

    return optax.multi_transform({"flow": flow, "rest": rest}, names)


def generated(model: Model, prompt: np.ndarray, count: int, key: Array) -> np.ndarray:
    """Return `count` tokens after a prompt of at least as many tokens as there are positions."""

    def following(window: Array, key: Array) -> tuple[Array, Array]:
        token = jax.random.categorical(key, model(window[None])[0, -1]).astype(window.dtype)
        return jnp.append(window[1:], token), token

    first = jnp.asarray(prompt[-model.context :], jnp.int32)
    if len(first) < model.context:
        raise InputError(
            f"prompt must have {model.context} tokens or more, got {len(first)}; give a longer one"
        )
    return np.asarray(
        nnx.jit(lambda first, keys: jax.lax.scan(following, first, keys)[1])(
            first, jax.random.split(key, count)
        )
    )
