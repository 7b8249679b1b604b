"""Transformers of more and more blocks with shorter and shorter steps: do trained ones converge?

    python -m experiments.transformer.limits

Networks of 4, 8 and 16 blocks with steps of length 2/L are compared with one of 32 after equal
trainings: equal weights at the start as functions of depth, equal data in equal order. Gaps are
root mean squares over a test batch of the differences of logits, relative to the logits of the
deepest network. Gaps of the weights, as functions of depth, are relative to how far the weights of
the deepest network have moved. Gaps are means over the seeds with Student's intervals. The order p
is that of the fit C (L^-p - 32^-p), seed by seed: a raw slope against a finite reference flatters.

The gradient of one block is of order 1/L. So the rate of the blocks grows with L under SGD, and
Adam's eps falls with L for the blocks: then weights move alike as functions of depth. The settings:

- sgd, and sgd, fast: a rate of 0.1 and of 0.3, times L for the blocks;
- adam, and adam, slow: a rate of 1e-3 and of 3e-4;
- adam, large head: a rate of 1e-3, and a head of nine times the size at the start. A small row of
  the head and the offset of its feature can grow with either sign, to the same effect. Adam steps
  by its whole rate however small a gradient is, so that two depths may choose two signs. A large
  row has its sign from the start. The worst row tells: it is the largest share that one row of the
  head has in the squared gap of the head between 16 and 32 blocks, of 32 rows.

The increment is the root mean square of the change of the weights from block to block, relative to
how far they have moved. It falls as 1/L where trained weights are a smooth function of depth.

For every setting, the network of 8 blocks is also trained from slightly other weights at the start
(every weight by a factor within 1e-4 of one, roughly). The growth is the gap of its outputs over
that before the training: how much trainings of this kind enlarge what they begin with.

All is measured after each number of --steps. Writes limits.json after each seed of each setting,
and goes on from what it holds.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.program import Parser, Run, count
from experiments.transformer import text
from experiments.transformer.model import Model, bits, by_part, train
from neuralflow import training
from neuralflow.console import progress, screen, span
from neuralflow.statistics import fitted_order, over_seeds

DEPTHS = (4, 8, 16, 32)
LENGTH = 2.0  # of the interval of depth time
EVERY = 50  # steps an epoch, at most


class Setting(NamedTuple):
    """How networks begin and are trained: the rate, and eps of Adam, are those for L = 1."""

    init: Any
    rate: float
    eps: float | None = None  # None is SGD
    head: float = 1.0  # by what the head is multiplied at the start

    def optimiser(self, depth: int) -> optax.GradientTransformation:
        """Return the optimiser of a network of this depth."""
        if self.eps is None:
            return by_part(optax.sgd(self.rate * depth), optax.sgd(self.rate))
        flow = optax.adam(self.rate, eps=self.eps / depth)
        return by_part(flow, optax.adam(self.rate, eps=self.eps))


SETTINGS = {
    "sgd": Setting(nf.tied, 0.1),
    "adam": Setting(nf.tied, 1e-3, 1e-8),
    "adam, large head": Setting(nf.tied, 1e-3, 1e-8, head=9.0),
    "adam, slow": Setting(nf.tied, 3e-4, 1e-8),
    "sgd, fast": Setting(nf.tied, 0.3),
}


def built(depth: int, seed: int, setting: Setting) -> Model:
    """Return the network of a depth with the weights of the seed."""
    sizes = {"width": 32, "heads": 4, "context": 32, "step": LENGTH / depth}
    model = Model(depth, **sizes, init=setting.init, rngs=nnx.Rngs(seed))
    model.head.kernel[...] *= setting.head
    return model


def perturbed(model: Model, seed: int) -> Model:
    """Return the model with every weight changed by a ten-thousandth, at random."""
    rng = np.random.default_rng(seed)

    def changed(a: Any) -> Any:
        return a * (1 + 1e-4 * rng.normal(size=a.shape)).astype(a.dtype)

    nnx.update(model, jax.tree.map(changed, nnx.state(model, nnx.Param)))
    return model


def rms(array: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(array, float)))))


def weights(model: Model) -> np.ndarray:
    """Return the weights of the blocks `(32, weights)` on the cells of the deepest network."""
    factor = DEPTHS[-1] // model.flow.field.basis.size
    flow = nf.refined(model.flow, factor) if factor > 1 else model.flow
    arrays = jax.tree.leaves(nnx.state(flow.field, nnx.Param))
    return np.concatenate([np.reshape(a, (DEPTHS[-1], -1)) for a in arrays], axis=1)


def increment(rows: list[Measured], i: int) -> float:
    """Return the change of the weights from block to block, relative to how far they moved."""
    depth = rows[i].depth
    own = rows[i].weights[:: DEPTHS[-1] // depth]
    return rms(np.diff(own, axis=0)) / rms(rows[i].weights - rows[0].weights)


class Measured(NamedTuple):
    """What is compared: logits on the test batch, weights, and the test loss in bits."""

    depth: int
    outputs: np.ndarray
    weights: np.ndarray
    head: np.ndarray
    loss: float


def worst_row(a: Measured, b: Measured) -> float:
    """Return the largest share that one row has in the squared gap of two heads."""
    rows = np.square(a.head - b.head).sum(1)
    return float(rows.max() / rows.sum())


@nnx.jit
def logits(model: Model, tokens: Any) -> Any:
    return model(tokens)


def measured(model: Model, tokens: text.Text) -> Measured:
    windows = {"tokens": text.spread(tokens.test, model.context, 512)}
    outputs = logits(model, jnp.asarray(windows["tokens"][:64, :-1]))
    loss = training.evaluate(model, bits, windows, batch=64)["loss"]
    depth, head = model.flow.field.basis.size, np.asarray(model.head.kernel[...])
    return Measured(depth, np.asarray(outputs), weights(model), head, loss)


def trained(
    model: Model, setting: Setting, seed: int, tokens: text.Text, horizons: list[int]
) -> list[Measured]:
    """Return what is measured before the training and after each number of steps."""
    optimiser = setting.optimiser(model.flow.field.basis.size)
    rows, fitted, every = [measured(model, tokens)], None, min(EVERY, *horizons)
    for steps in horizons:
        fitted = train(
            model, tokens.train, optimiser, steps=steps, seed=seed, every=every, after=fitted
        )
        rows.append(measured(model, tokens))
    return rows


def compared(setting: Setting, seed: int, tokens: text.Text, horizons: list[int]) -> dict[str, Any]:
    """Train the networks of one seed, and return their gaps by the number of steps."""

    def series(model: Model) -> list[Measured]:
        return trained(model, setting, seed, tokens, horizons)

    *shallow, deep = (series(built(depth, seed, setting)) for depth in DEPTHS)
    near, plain = series(perturbed(built(DEPTHS[1], seed, setting), seed)), shallow[1]
    record = {}

    def gap(a: Measured, b: Measured) -> float:
        return rms(a.outputs - b.outputs) / rms(b.outputs)

    for i, steps in enumerate(horizons, 1):
        moved = rms(deep[i].weights - deep[0].weights)
        record[str(steps)] = {
            "outputs": [gap(rows[i], deep[i]) for rows in shallow],
            "weights": [rms(rows[i].weights - deep[i].weights) / moved for rows in shallow],
            "increments": [increment(rows, i) for rows in (*shallow, deep)],
            "losses": [rows[i].loss for rows in (*shallow, deep)],
            "worst row": worst_row(shallow[-1][i], deep[i]),
            "growth": gap(near[i], plain[i]) / gap(near[0], plain[0]),
        }
    return {"before": [gap(rows[0], deep[0]) for rows in shallow], **record}


def order(gaps: list[float]) -> float:
    """Return p of gap = C (L^-p - 32^-p), or NaN."""
    return _number(fitted_order(DEPTHS[:-1], gaps, least=1, reference=DEPTHS[-1]))


def _number(order: float | None) -> float:
    return np.nan if order is None else order


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means and Student's intervals over the seeds, for one setting and number of steps."""

    def columns(what: str) -> list[dict[str, Any]]:
        return [over_seeds(column) for column in np.asarray([s[what] for s in seeds]).T]

    orders = {
        f"order of {what}": over_seeds([order(s[what]) for s in seeds])
        for what in ("outputs", "weights")
    }
    falls = [_number(fitted_order(DEPTHS, s["increments"], least=1)) for s in seeds]
    return {
        **{what: columns(what) for what in ("outputs", "weights", "increments", "losses")},
        **orders,
        "order of increments": over_seeds(falls),
        **{what: over_seeds([s[what] for s in seeds]) for what in ("worst row", "growth")},
    }


def table(rows: dict[str, dict[str, Any]]) -> Table:
    """Return the table of the summaries by setting and number of steps."""
    shown = Table(title="mean (95% over seeds, if roughly normal)")
    depths = [f"L = {depth}" for depth in DEPTHS[:-1]]
    for name in (
        "setting",
        *depths,
        "p",
        "p, weights",
        "p, increments",
        "worst row",
        "growth",
        "test bits, 4 and 32",
    ):
        shown.add_column(name, justify="left" if name == "setting" else "right")

    def cell(s: dict[str, Any], digits: int = 2) -> str:
        return f"{s['mean']:.{digits}f}\n({span(s['interval'], digits)})"

    for name, row in rows.items():
        orders = [cell(row[f"order of {what}"]) for what in ("outputs", "weights", "increments")]
        losses = " ".join(f"{row['losses'][i]['mean']:.3f}" for i in (0, -1))
        rest = [cell(row[what]) for what in ("worst row", "growth")]
        gaps = [cell(s, 3) for s in row["outputs"]]
        shown.add_row(name, *gaps, *orders, *rest, losses)
    return shown


def study(run: Run) -> None:
    """Train what is not in the file yet, write it, and show the table."""
    given, console, tokens = run.options, screen(), text.load()
    held = run.held("limits")
    runs = held["runs"] if held.get("steps") == given.steps else {}

    def rows() -> dict[str, dict[str, Any]]:
        return {
            f"{name}, {steps} steps": summary([s[str(steps)] for s in seeds.values()])
            for name, seeds in runs.items()
            for steps in given.steps
        }

    with progress(len(given.settings) * given.seeds, console) as done:
        for name, seed in itertools.product(given.settings, range(given.seeds)):
            of_seed = runs.setdefault(name, {})
            if str(seed) not in of_seed:
                of_seed[str(seed)] = compared(SETTINGS[name], seed, tokens, given.steps)
            last = of_seed[str(seed)][str(given.steps[-1])]
            done(f"{name}, seed {seed}: " + " ".join(f"{g:.3f}" for g in last["outputs"]))
            run.write("limits", {"steps": given.steps, "summary": rows(), "runs": runs})
    console.print(table(rows()))


def main(arguments: Sequence[str] | None = None) -> None:
    quick = {"settings": ["sgd"], "steps": [2], "seeds": 1}
    parser = Parser(__file__, __doc__, seeds=3, quick=quick)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--steps", type=count, nargs="+", default=[150, 600])
    run = parser.begin(arguments)
    horizons = run.options.steps
    if any(steps % min(EVERY, *horizons) for steps in horizons):
        parser.error(f"--steps must be multiples of {EVERY} or of the first, got {horizons}")
    with tempfile.TemporaryDirectory() as folder:
        # Every number of steps compiles the training of a network again, unless it is kept.
        jax.config.update("jax_compilation_cache_dir", folder)
        study(run)


if __name__ == "__main__":
    main()
