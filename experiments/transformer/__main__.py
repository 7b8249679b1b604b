"""Train a causal character model on the sources of Python's standard library.

    python -m experiments.transformer --depth 8 --width 64 --heads 4 --context 64 --seconds 120

The scheme says which transformer it is: `lie-trotter` is the ordinary pre-norm block, `euler` the
parallel block, `macaron` the block with two halves of the perceptron around attention, and `strang`
the splitting of order two. The training takes as many steps as fit into the given seconds on this
machine, measured on some steps before, or as many as are given. The time counts from the first step
on, with the compilation. Adam has a rate that rises for a tenth of the steps and then falls as a
cosine; gradients are clipped to length one.

Bits per character are measured on the whole test part, a tenth of the files, in windows of the
context: a character in the middle of a window has half of the context before it. Text is generated
by drawing every character from the model, after a piece of the test part. Writes language.json. The
folder --out also has checkpoints and history.jsonl. The same command goes on with what was
interrupted, and every other one needs a folder of its own. With --keep, it begins anew.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from experiments.lm_resnet.model import parameters
from experiments.program import Parser, Run, count, positive
from experiments.transformer import text
from experiments.transformer.model import SCHEMES, Model, bits, cosine, generated, train
from neuralflow import files, training
from neuralflow.console import screen
from neuralflow.training.checkpoints import CheckpointError

EVERY = 250  # steps an epoch
CHARACTERS = 600  # of the generated text


def parser() -> Parser:
    quick = {"depth": 2, "width": 8, "heads": 2, "context": 16, "batch": 2, "steps": EVERY}
    made = Parser(__file__, __doc__, quick=quick)
    made.add_argument("--depth", type=count, default=8)
    made.add_argument("--width", type=count, default=64)
    made.add_argument("--heads", type=count, default=4)
    made.add_argument("--context", type=count, default=64, help="characters before a character")
    made.add_argument("--scheme", choices=SCHEMES, default="lie-trotter")
    made.add_argument("--step", type=positive, default=1.0, help="length of a step in depth time")
    made.add_argument("--batch", type=count, default=8, help="windows in a step of the training")
    made.add_argument("--rate", type=positive, default=3e-3, help="the largest learning rate")
    made.add_argument("--seconds", type=positive, default=120.0, help="of training")
    made.add_argument(
        "--steps", type=count, help=f"instead of seconds; beyond {EVERY}, a multiple of it"
    )
    made.add_argument("--seed", type=int, default=0)
    return made


def built(given: Namespace) -> Model:
    """Return the model with the weights of the seed."""
    sizes = {name: getattr(given, name) for name in ("width", "heads", "context", "scheme", "step")}
    return Model(given.depth, **sizes, rngs=nnx.Rngs(given.seed))


def adam(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(cosine(rate, steps), b2=0.99))


def fitting(given: Namespace, tokens: np.ndarray) -> int:
    """Return how many steps fit into the seconds: the second of two short epochs tells.

    A tenth of the seconds is kept back for what is slower than there.
    """
    shared = {"steps": EVERY, "batch": given.batch, "every": EVERY // 2}
    began = time.perf_counter()
    fitted = train(built(given), tokens, adam(given.rate, EVERY), **shared)
    each = float(fitted.history["seconds"][-1]) / (EVERY // 2)
    compiled = time.perf_counter() - began - each * EVERY
    return max(1, int((0.9 * given.seconds - compiled) / each) // EVERY) * EVERY


def planned(run: Run, tokens: np.ndarray) -> int:
    """Return the number of steps: that of the command, of the run to go on with, or that fit."""
    plan = run.work / "plan.json"
    if run.options.steps is not None:
        return run.options.steps
    if plan.exists():
        return json.loads(plan.read_text())["steps"]
    steps = fitting(run.options, tokens)
    run.work.mkdir(parents=True, exist_ok=True)
    files.write(plan, files.as_json({"steps": steps}))
    return steps


NOT_SETTINGS = ("out", "keep", "quick", "seconds")


def trained(run: Run, tokens: text.Text) -> dict[str, Any]:
    """Train the model, write the results, and return them."""
    given, console = run.options, screen()
    steps = planned(run, tokens.train)
    sizes = {key: value for key, value in vars(given).items() if key not in NOT_SETTINGS}
    settings = sizes | {"steps": steps, "text": files.digest(tokens.train)}
    model = built(given)
    console.print(f"{parameters(model)} parameters, {steps} steps", highlight=False)
    fitted = train(
        model, tokens.train, adam(given.rate, steps), steps=steps, batch=given.batch,
        seed=given.seed, every=EVERY, folder=run.work, settings=settings, progress=True,
    )  # fmt: skip
    windows = {"tokens": text.spread(tokens.test, given.context)}
    spoken = tokens.test[: given.context]
    written = generated(model, spoken, CHARACTERS, jax.random.key(given.seed))
    result = {
        "options": settings,
        "characters": {"train": len(tokens.train), "test": len(tokens.test)},
        "unigrams, bits": text.unigram_bits(np.concatenate(tokens)),
        "parameters": parameters(model),
        "test, bits per character": training.evaluate(model, bits, windows, batch=64)["loss"],
        "training, bits per character": fitted.history["loss"].tolist(),
        "prompt": text.decode(spoken),
        "generated": text.decode(written),
        "seconds of training": float(fitted.history["seconds"].sum()),
    }
    run.write("language", {"result": result})
    console.print(text.decode(spoken) + text.decode(written), highlight=False, markup=False)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser()
    run = made.begin(arguments)
    steps = run.options.steps
    if steps is not None and steps > EVERY and steps % EVERY:
        made.error(f"--steps must be at most {EVERY} or a multiple of {EVERY}, got {steps}")
    try:
        result = trained(run, text.load())
    except (ValueError, OSError, training.TrainingError, CheckpointError) as error:
        made.error(str(error))
    print(
        f"{result['test, bits per character']:.3f} bits per character of the test part, after "
        f"{result['options']['steps']} steps in {result['seconds of training']:.0f} s of training"
    )


if __name__ == "__main__":
    main()
