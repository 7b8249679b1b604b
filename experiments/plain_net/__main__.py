"""A plain net as a flow and as a residual network: errors on random nets, then digits, refined.

    python -m experiments.plain_net

The rows of the table are the errors of every formula on twenty random nets of six layers (widths 1
to 64). Each net is decomposed, and turned into flows and residual networks. For the digits, a plain
net is trained, turned into a ResNet of the same predictions, and trained on. A ResNet of the same
depth is trained from scratch for comparison. Writes results.json, digits.png and motions.png.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table
from scipy.linalg import expm

import neuralflow as nf
from experiments.program import Parser, count
from neuralflow import plots
from neuralflow.console import progress, screen
from neuralflow.labs import plain_net
from neuralflow.models import classification


def drawn(seed: int, largest: int) -> list[Any]:
    """Draw a random ReLU net of six layers, with widths from 1 to `largest`."""
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, largest + 1, 7)
    pairs = itertools.pairwise(widths)
    return [
        (rng.normal(size=(b, a)) * np.sqrt(2 / a), 0.3 * rng.normal(size=b), jax.nn.relu)
        for a, b in pairs
    ]


def errors(seed: int, least: bool) -> dict[str, float]:
    """Return the errors of one draw, or with `least` only the first of every kind.

    An error is the sup norm over 200 points, relative to the largest output.
    """
    few = slice(1 if least else None)
    net, narrow = drawn(seed, 64), drawn(seed, 8)
    layers = plain_net.read(net)
    size = plain_net.dimension(layers)
    metrics: dict[str, float] = {"decomposition": 0.0}
    for layer in layers:
        row = plain_net.decompose(layer.weight, size)
        padded = np.pad(layer.weight, [(0, size - n) for n in layer.weight.shape])
        gap = np.abs(expm(row.left) @ np.diag(row.scale) @ expm(row.right) - padded).max()
        metrics["decomposition"] = max(metrics["decomposition"], float(gap))

    def error(converted: Any, net: Any) -> float:
        x = np.random.default_rng(seed + 100).normal(size=(200, net[0][0].shape[1]))
        want = x
        for weight, bias, activation in net:
            want = np.asarray(activation(want @ weight.T + bias))
        return float(
            np.abs(np.asarray(converted(jnp.asarray(x))) - want).max()
            / max(1.0, np.abs(want).max())
        )

    for cutoff in (1e-4, 1e-6, 1e-8)[few]:
        flow = plain_net.as_flow(
            net, cutoff=cutoff, solve=nf.Adaptive(nf.Tsit5(), 1e-11, 1e-11, max_steps=1 << 15)
        )
        metrics[f"flow, cutoff {cutoff:g}"] = error(flow, net)
    metrics["ReLU in one block"] = error(plain_net.as_resnet(net), net)
    metrics["ReLU in seven blocks"] = error(plain_net.as_resnet(net, steps=7), net)
    for horizon in (5.0, 10.0, 20.0)[few]:
        relaxed = plain_net.as_resnet(net, activation="relaxed", steps=64, horizon=horizon)
        metrics[f"ReLU relaxed, S = {horizon:g}"] = error(relaxed, net)
    for linear, depths in (("cayley", (64, 128, 256)), ("euler", (128, 256, 512)))[few]:
        gaps = [error(plain_net.as_resnet(narrow, linear=linear, steps=n), narrow) for n in depths]  # type: ignore[arg-type]
        metrics[f"{linear}, {depths[-1]} steps"] = gaps[-1]
        flat = max(gaps) < 1e-12
        metrics[f"order, {linear}"] = (
            np.nan if flat else float(-np.polyfit(np.log(depths), np.log(gaps), 1)[0])
        )
    return metrics


def rows(draws: int, least: bool, console: Console) -> dict[str, list[float | None]]:
    """Measure all draws, and print their table.

    A draw whose rotations are all the identity (widths of one) has no order.
    """
    with progress(draws, console) as done:
        results = []
        for seed in range(draws):
            results.append(errors(seed, least))
            done(f"net {seed}")
    table = Table(
        title=f"{draws} random ReLU nets of six layers: error relative to the output, or order"
    )
    for name in ("what", "least", "median", "largest"):
        table.add_column(name, justify="left" if name == "what" else "right")
    series = {name: np.asarray([row[name] for row in results]) for name in results[0]}
    for name, values in series.items():
        table.add_row(name, *(f"{f(values):.3g}" for f in (np.nanmin, np.nanmedian, np.nanmax)))
    console.print(table)
    return {
        name: [None if np.isnan(v) else float(v) for v in values] for name, values in series.items()
    }


class Net(nnx.Module):
    """A plain net on flattened digits."""

    def __init__(self, widths: tuple[int, ...], rngs: nnx.Rngs):
        self.dense = nnx.List(nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths))

    @property
    def layers(self) -> list[Any]:
        """The linear maps and the activations in their order."""
        pairs: list[Any] = [part for dense in self.dense for part in (dense, jax.nn.relu)]
        return pairs[:-1]

    def __call__(self, x: Any) -> Any:
        x = x.reshape(len(x), -1)
        for part in self.layers:
            x = part(x)
        return x


class Flattened(nnx.Module):
    """A net on flattened digits."""

    def __init__(self, net: nnx.Module):
        self.net = net

    def __call__(self, x: Any) -> Any:
        net: Any = self.net
        return net(x.reshape(len(x), -1))


def scratch(refined: plain_net.Embedded, rngs: nnx.Rngs) -> plain_net.Embedded:
    """Build a ResNet of the same blocks, with inner weights drawn as He et al. draw them.

    The outer weights are zero.
    """
    kinds = refined.layer.field.stack.activations  # type: ignore[attr-defined]
    size, count = refined.size, refined.layer.field.basis.count  # type: ignore[attr-defined]

    def block(rngs: nnx.Rngs) -> plain_net.Block:
        module = plain_net.Block(size, kinds, 1)
        module.inner.set_value(np.sqrt(2 / size) * jax.random.normal(rngs.params(), (size, size)))
        module.gates.set_value(jnp.ones(len(kinds)))
        return module

    field = nf.DepthVarying(block, nf.PiecewiseConstant(count), rngs=rngs)
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=count), 0.0, float(count))
    return plain_net.Embedded(layer, (refined.inputs, size, refined.outputs))


def digits(epochs: int, seeds: int, console: Console) -> dict[str, Any]:
    """Train on the digits, and return the curves.

    The curves belong to the plain net, to the ResNet that it becomes, to the plain net trained
    longer, and to a ResNet from scratch.
    """
    train_set, test_set = nf.data.digits("train"), nf.data.digits("test")
    runs: dict[str, list[Any]] = {
        name: [] for name in ("plain net", "refined", "plain net, longer", "from scratch")
    }
    same: list[dict[str, float]] = []

    def train(model: Any, count: int, rate: float, seed: int) -> list[Any]:
        fitted = nf.training.fit(
            model,
            classification,
            optax.adam(rate),
            train_set,
            epochs=count,
            batch=64,
            validation=test_set,
            seed=seed,
            progress=False,
        )
        return [
            {k: row[k] for k in ("loss", "validation_loss", "validation_accuracy")}
            for row in fitted.history.rows
        ]

    for seed in range(seeds):
        net = Net((64, 48, 48, 10), nnx.Rngs(seed))
        runs["plain net"].append(train(net, epochs, 3e-3, seed))
        refined = plain_net.as_resnet(net.layers, steps=2)
        x = jnp.asarray(test_set["x"]).reshape(len(test_set["x"]), -1)
        before, after = net(x), refined(x)
        same.append(
            {
                "largest difference": float(jnp.abs(before - after).max()),
                "equal": float((before.argmax(1) == after.argmax(1)).mean()),
            }
        )
        fresh = scratch(refined, nnx.Rngs(seed + 10))
        runs["refined"].append(train(Flattened(refined), epochs, 3e-4, seed + 1))
        runs["plain net, longer"].append(train(net, epochs, 3e-4, seed + 1))
        runs["from scratch"].append(train(Flattened(fresh), 2 * epochs, 1e-3, seed))
        console.print(
            f"seed {seed}: predictions equal {same[-1]['equal']:.1%}, logits to "
            f"{same[-1]['largest difference']:.1e}"
        )
    table = Table(title="digits: after training, mean over seeds (least to largest)")
    for name in ("network", "test accuracy, percent", "test loss"):
        table.add_column(name, justify="left" if name == "network" else "right")
    for name, histories in runs.items():
        ends = np.asarray(
            [
                [100 * run[-1]["validation_accuracy"], run[-1]["validation_loss"]]
                for run in histories
            ]
        )
        cells = [
            f"{m:.3g} ({a:.3g}-{b:.3g})"
            for m, a, b in zip(ends.mean(0), ends.min(0), ends.max(0), strict=True)
        ]
        table.add_row(name, *cells)
    console.print(table)
    return {"epochs": epochs, "same": same, "runs": runs}


def picture(results: dict[str, Any]) -> Any:
    """Draw training loss, test loss and test accuracy by epoch, for every seed."""
    figure, axes = plots.figure(1, 3, height=3.6)
    starts = {
        "plain net": 0,
        "refined": results["epochs"],
        "plain net, longer": results["epochs"],
        "from scratch": 0,
    }
    titles = {
        "loss": "training loss",
        "validation_loss": "test loss",
        "validation_accuracy": "test accuracy",
    }
    for axis, (what, title) in zip(axes, titles.items(), strict=True):
        for (name, runs), colour in zip(
            results["runs"].items(), ("#555555", "#d1495b", "#c98b2b", "#20639b"), strict=True
        ):
            for i, run in enumerate(runs):
                epochs = starts[name] + 1 + np.arange(len(run))
                axis.plot(
                    epochs,
                    [row[what] for row in run],
                    color=colour,
                    linewidth=1.1,
                    alpha=0.8,
                    label=name if i == 0 else None,
                )
        axis.axvline(results["epochs"] + 0.5, color="0.7", linewidth=0.8, linestyle=":")
        axis.set(xlabel="epoch")
        axis.set_title(title, fontsize=10)
        if what != "validation_accuracy":
            axis.set_yscale("log")
    axes[2].set_ylim(0.9, 1.0)
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def strip() -> Any:
    """Draw one layer of the plane as its five motions."""
    angle = 0.9
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    net = [(turn @ np.diag([1.6, 0.6]) @ turn, np.array([0.3, -0.2]), jax.nn.relu)]
    line = np.linspace(-1, 1, 33)
    x = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return plain_net.plots.motions(plain_net.as_flow(net), x)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, seeds=3, quick={"draws": 1, "epochs": 1, "seeds": 1})
    parser.add_argument("--draws", type=count, default=20, help="random nets")
    parser.add_argument("--epochs", type=count, default=30)
    run = parser.begin(arguments)
    options, console = run.options, screen()
    with jax.enable_x64(True):
        measured = rows(options.draws, options.quick, console)
        moved = strip()
    results = digits(options.epochs, options.seeds, console)
    pictures = {"digits.png": picture(results), "motions.png": moved}
    run.write("results", {"rows": measured, "digits": results}, pictures)


if __name__ == "__main__":
    main()
