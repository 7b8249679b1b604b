"""MNIST with a penalty in depth: do trained networks of growing depth converge?

    python -m experiments.deep_limit.mnist --data-dir FOLDER

FOLDER holds MNIST as TFDS writes it. The loss of a mini-batch is the cross-entropy plus
a * (int |theta'|^2 + |theta(0)|^2). The optimiser has momentum, in the Sobolev product of the same
norm. The weights are piecewise linear in depth, and Euler takes n steps. Networks of every depth
start from the same theta(t) and see the same batches.

The results are the distance to the deepest network with its order, the test accuracy by depth, and
the test loss by learning rate at two depths. The last one tells whether one learning rate serves
all depths. Writes mnist.json and mnist.png.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.deep_limit.images import Network, accuracy, cross_entropy, images
from experiments.program import Parser, cores, count
from neuralflow import plots
from neuralflow.console import progress, screen, span
from neuralflow.labs import deep_limit
from neuralflow.regularisers import depth_energy, sobolev
from neuralflow.statistics import over_seeds

WIDTH, BATCH, COARSE = 32, 128, 4
TABLE = (
    "by learning rate",
    ("", "test accuracy", "distances, output", "orders, output", "orders, loss"),
)
"""The rows and the columns that the report shows."""


def make(depth: int, case: Any) -> nnx.Module:
    """Build the network of a depth.

    Its weights are drawn on a coarse basis, so that all depths begin with one theta(t).
    """
    rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(0), case["seed"]))

    def mlp(rngs):
        return nf.fields.MLP(WIDTH, hidden=WIDTH, rngs=rngs)

    field = nf.DepthVarying(mlp, nf.PiecewiseLinear(COARSE), rngs=rngs, init=nf.smooth(0.5))
    return Network(field.refine(nf.PiecewiseLinear(depth)), depth, WIDTH, rngs=rngs)


def trained(
    depths: list[int],
    cases: Any,
    a: float,
    steps: int,
    train: Any,
    test: Any,
    done: Callable[[str], None],
) -> list[deep_limit.Trained]:
    """Train networks of every depth. `cases` holds the seeds and the learning rates."""
    a_pass = len(train["y"]) // BATCH

    def batch(train: Any, case: Any, i: Any) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), case["seed"]), i // a_pass)
        picked = jax.random.randint(
            jax.random.fold_in(key, i % a_pass), (BATCH,), 0, len(train["y"])
        )
        return jax.tree.map(lambda values: values[picked], train)

    def loss(model: Any, samples: Any) -> Any:
        logits = model(samples["x"])
        return cross_entropy(logits, samples["y"]) + a * depth_energy(model), logits

    def optimiser(model: Any, depth: int, case: Any) -> Any:
        schedule = optax.cosine_decay_schedule(1.0, steps)

        def rate(count):
            return case["rate"] * schedule(count)

        return optax.chain(sobolev(model), optax.sgd(rate, momentum=0.9))

    networks = []
    for network in deep_limit.train(
        depths,
        cases,
        make=make,
        loss=loss,
        batch=batch,
        optimiser=optimiser,
        steps=steps,
        data=train,
        probe=test,
    ):
        losses = " ".join(f"{loss:.4f}" for loss in network.losses)
        done(f"depth {network.depth}: test losses {losses}")
        networks.append(network)
    return networks


def pick(network: deep_limit.Trained, cases: Any) -> deep_limit.Trained:
    """Return the network with some of its cases."""
    weights = {name: values[cases] for name, values in network.weights.items()}
    return deep_limit.Trained(network.depth, weights, network.outputs[cases], network.losses[cases])


def measured(networks: list[deep_limit.Trained], labels: Any) -> dict[str, Any]:
    """Summarise networks of every depth.

    The distances to the deepest network are means over seeds, by depth. They have orders with
    intervals. The accuracies are given by depth and seed.
    """
    every = [deep_limit.gaps(network, networks[-1]) for network in networks[:-1]]
    orders = deep_limit.scaling(networks).gaps
    return {
        "distances": {name: [float(gap[name].mean()) for gap in every] for name in every[0]},
        "orders": {
            name: {**over_seeds(p), "seeds": [float(v) for v in p]} for name, p in orders.items()
        },
        "test accuracy": [
            np.asarray(accuracy(network.outputs, labels)).tolist() for network in networks
        ],
    }


def show(title: str, depths: list[int], metrics: dict[str, Any]) -> None:
    """Print the metrics as a table."""
    table = Table(title=title)
    for head in ("depth", *metrics["distances"], "test accuracy"):
        table.add_column(head, justify="right")
    for k, depth in enumerate(depths):
        gap = [
            f"{values[k]:.2e}" if k < len(values) else "-"
            for values in metrics["distances"].values()
        ]
        table.add_row(str(depth), *gap, f"{np.mean(metrics['test accuracy'][k]):.2%}")
    cells = (f"{p['mean']:.2f} ({span(p['interval'])})" for p in metrics["orders"].values())
    table.add_row("order", *cells, "", style="bold")
    screen().print(table)


def picture(
    depths: list[int],
    runs: dict[float, dict[str, Any]],
    rates: list[float],
    losses: dict[int, list[float | None]],
) -> Any:
    """Draw distances, accuracies and learning rates."""
    figure, (left, middle, right) = plots.figure(1, 3, height=3.6)
    n = np.asarray(depths)
    for k, (rate, metrics) in enumerate(runs.items()):
        for style, (name, values) in zip(
            ("-", "--"), list(metrics["distances"].items())[1:4:2], strict=False
        ):
            left.loglog(
                n[:-1],
                values,
                "os"[k] + style,
                color=f"C{k}",
                markersize=4,
                linewidth=1.2,
                label=f"{name}, rate {rate:g}",
            )
        scores = 100 * np.asarray(metrics["test accuracy"])
        style = {
            "color": f"C{k}",
            "marker": "os"[k],
            "markersize": 4,
            "linewidth": 1.2,
            "capsize": 2,
        }
        middle.errorbar(n, scores.mean(axis=1), scores.std(axis=1), label=f"rate {rate:g}", **style)
    first = next(iter(runs.values()))["distances"]["dense.0.kernel"][0]
    model = 1 / n[:-1] - 1 / n[-1]
    left.loglog(
        n[:-1], first * model / model[0], color="0.5", linewidth=0.8, label=f"1/n - 1/{n[-1]}"
    )
    left.set_title(f"distance of weights to {n[-1]} layers", fontsize=10)
    middle.set_xscale("log")
    middle.set_title("test accuracy, % (spread over seeds)", fontsize=10)
    for axis in (left, middle):
        axis.set_xlabel("depth n (layers)")
        axis.set_xticks(n, [str(k) for k in n])
        axis.xaxis.minorticks_off()
    for k, (depth, values) in enumerate(losses.items()):
        right.semilogx(
            rates,
            [np.nan if v is None else v for v in values],
            "os"[k] + "-",
            color=f"C{k + 2}",
            markersize=4,
            linewidth=1.2,
            label=f"{depth} layers",
        )
    right.set_xticks(rates, [f"{r:g}" for r in rates])
    right.xaxis.minorticks_off()
    right.set_title("test loss after one pass", fontsize=10)
    right.set_xlabel("learning rate")
    for axis in (left, middle, right):
        axis.legend(fontsize=7, frameon=False)
    return figure


def parser() -> Parser:
    made = Parser(
        __file__, __doc__, seeds=4, data="needed",
        quick={"seeds": 2, "depths": [4, 8, 16], "epochs": 1, "search": [0.05, 0.1]},
    )  # fmt: skip
    made.add_argument(
        "--depths",
        type=count,
        nargs="+",
        default=[4, 8, 16, 32, 64],
        help="multiples of 4; the last is the reference",
    )
    made.add_argument("--epochs", type=count, default=2)
    made.add_argument("--penalty", type=float, default=1e-4, help="the weight a")
    made.add_argument(
        "--rates",
        type=float,
        nargs=2,
        default=[0.025, 0.1],
        help="learning rates of the runs over depth",
    )
    made.add_argument(
        "--search",
        type=float,
        nargs="+",
        default=[0.025, 0.05, 0.1, 0.2, 0.4],
        help="learning rates to choose from",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    run = parser().begin(arguments)
    options, part = run.options, "[:256]" if run.options.quick else ""
    train, test = (images(split + part, options.data_dir) for split in ("train", "test"))
    a_pass, began, seeds = len(train["y"]) // BATCH, time.perf_counter(), np.arange(options.seeds)
    cases = {
        "seed": jnp.tile(seeds, 2),
        "rate": jnp.repeat(jnp.asarray(options.rates), options.seeds),
    }
    searching = {
        "seed": jnp.repeat(jnp.arange(2), len(options.search)),
        "rate": jnp.tile(jnp.asarray(options.search), 2),
    }
    depths, ends, steps = options.depths, [options.depths[1], options.depths[-1]], a_pass
    with progress(len(depths) + len(ends)) as done:
        rest = (train, test, done)
        networks = trained(depths, cases, options.penalty, options.epochs * steps, *rest)
        spent = time.perf_counter() - began
        searched = trained(ends, searching, options.penalty, steps, *rest)
    runs = {
        rate: measured(
            [pick(network, seeds + k * options.seeds) for network in networks], test["y"]
        )
        for k, rate in enumerate(options.rates)
    }
    means = {network.depth: network.losses.reshape(2, -1).mean(axis=0) for network in searched}
    losses = {
        depth: [float(v) if v < 10 else None for v in values] for depth, values in means.items()
    }  # None: the training diverged
    best = {depth: options.search[int(np.nanargmin(values))] for depth, values in means.items()}
    for rate, metrics in runs.items():
        title = f"Learning rate {rate:g}: distance to depth {depths[-1]}, means over seeds"
        show(title, depths, metrics)
    print(f"Best learning rate: {best}; {spent:.0f} s for all depths")
    record = {
        "by learning rate": runs,
        "test losses in the search": losses,
        "best learning rate": best,
        "seconds for all depths": spent,
    }
    run.write("mnist", record, {"mnist.png": picture(depths, runs, options.search, losses)})


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", cores())  # Cases are shared out among them.
    main()
