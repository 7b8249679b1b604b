"""Why deep residual networks can be trained: the gradient by length of path.

    python -m experiments.path_integral.gradients

The networks read scikit-learn's handwritten digits, embedded in 16 dimensions. They have N blocks
x + h f_k(x) with dense branches, and a linear readout. N is 8, 32 or 128, and h is 1, 1 / sqrt(N)
or 1 / N. The plain networks x -> f_k(x) have no skips, and start from the same weights. At each of
256 test points, a network is the linear network of its gates: it has 2^N sub-paths, and C(N, k) of
them go through k branches. The gradients are measured before and after training. Writes
gradients.json and gradients.png beside this file.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

import neuralflow as nf
from neuralflow import files, plots
from neuralflow.console import progress, screen
from neuralflow.labs import paths

HERE = Path(__file__).parent
COMMAND = "python -m experiments.path_integral.gradients"
DEPTHS, WIDTH = (8, 32, 128), 16
KINDS = {"h = 1": 0.0, "h = 1/√N": 0.5, "h = 1/N": 1.0, "plain": 0.0}
LIMITS = (1, 2, 4, 8, 16)


class Plain(nnx.Module):
    """The field f(x) - x, whose Euler step of length one is x -> f(x)."""

    def __init__(self, net: nnx.Module):
        self.net = net

    def __call__(self, x: Any) -> Any:
        net: Any = self.net
        return net(x) - x


class Network(nnx.Module):
    """A network from digits `(batch, 8, 8, 1)` to logits."""

    def __init__(self, kind: str, depth: int, *, rngs: nnx.Rngs):
        def make(rngs):
            return nf.fields.MLP(WIDTH, hidden=WIDTH, activation=jax.nn.relu, rngs=rngs)

        built = (lambda rngs: Plain(make(rngs))) if kind == "plain" else make
        self.embed = nnx.Linear(64, WIDTH, rngs=rngs)
        field = nf.DepthVarying(built, nf.PiecewiseConstant(depth), rngs=rngs)
        self.flow = nf.NeuralODE(
            field, nf.FixedGrid(nf.Euler(), steps=depth), 0.0, depth ** (1 - KINDS[kind])
        )
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(self.flow(self.embed(x.reshape(len(x), -1))))


def loss(model: Network, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Compute cross-entropy and accuracy."""
    logits = model(batch["x"])
    right = jnp.argmax(logits, axis=-1) == batch["y"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {
        "accuracy": jnp.mean(right)
    }


def looked_at(model: Network, batch: dict[str, Any]) -> tuple[paths.Branches, Any]:
    """Return the network's branches at the samples, and the gradients at the flow's end.

    The gradients are those of each sample's loss. All numbers are float64.
    """
    start = model.embed(batch["x"].reshape(len(batch["x"]), -1))

    def cost(y):
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(model.head(y), batch["y"]))

    linearisation = paths.linearised(model.flow, start), jax.grad(cost)(model.flow(start))
    return jax.tree.map(lambda a: a.astype(float), linearisation)


def measured(branches: paths.Branches, cotangent: Any) -> dict[str, Any]:
    """Measure the gradient by length of path.

    Norms of the gradient at the input are added up over samples, and divided by the norms at the
    output. The shares are those of short paths.
    """

    def size(a):
        return jnp.sum(jnp.linalg.norm(a, axis=-1))

    def mean(a):
        return float(size(a[0]) / size(a[-1]))

    shares = np.asarray(paths.length_shares(paths.gradients(branches, cotangent)), float)
    return {
        "gradient at the input": mean(paths.adjoints(branches, cotangent)),
        "without skips": mean(paths.adjoints(branches, cotangent, skip=False)),
        "mean length": float(shares @ np.arange(len(shares))),
        "share up to": {str(k): float(shares[: k + 1].sum()) for k in LIMITS},
        "shares": [float(share) for share in shares],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began, console = time.perf_counter(), screen()
    # Some gradients grow by 1e30 and more. Training stays in float32.
    jax.config.update("jax_enable_x64", True)
    train, test = nf.data.digits("train"), nf.data.digits("test")
    points = {key: jnp.asarray(value[:256]) for key, value in test.items()}
    figure, axes = plots.figure(len(DEPTHS), 2, width=10.5, height=9.5)
    rows = []
    with progress(len(DEPTHS) * len(KINDS), console) as done:
        for row, depth in zip(axes, DEPTHS, strict=True):
            drawn = {}
            for kind in KINDS:
                model = Network(kind, depth, rngs=nnx.Rngs(options.seed))
                record: dict[str, Any] = {
                    "depth": depth,
                    "kind": kind,
                    "before": measured(*looked_at(model, points)),
                }
                rate = optax.cosine_decay_schedule(2e-3, options.epochs * (len(train["x"]) // 64))
                optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
                nf.training.fit(
                    model,
                    loss,
                    optimiser,
                    train,
                    epochs=options.epochs,
                    batch=64,
                    seed=options.seed,
                    progress=False,
                )
                linearisation = looked_at(model, points)
                record["after"] = measured(*linearisation)
                record["accuracy, %"] = 100 * float(
                    nf.training.evaluate(model, loss, test, batch=64)["accuracy"]
                )
                if kind != "plain":
                    drawn[kind] = linearisation
                else:
                    size = np.linalg.norm(
                        np.asarray(paths.adjoints(*linearisation), float), axis=-1
                    ).sum(axis=1)
                    row[1].semilogy(
                        np.linspace(0, 1, len(size)),
                        size / size[-1],
                        color="black",
                        linewidth=1.2,
                        label="plain",
                    )
                rows.append(record)
                done(f"depth {depth}, {kind}: accuracy {record['accuracy, %']:.1f}%")
            paths.plots.gradient_paths(drawn, row)
            row[1].legend(fontsize=8, frameon=False)
    table = Table(
        title="gradients at 256 test digits: at the input over at the output, and the share by "
        "length of path, trained"
    )
    for column in (
        "depth",
        "network",
        "accuracy",
        "gradient",
        "no skips",
        "untrained",
        "no skips",
        "mean length",
        "up to 4",
        "up to 16",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    for r in rows:
        after, before = r["after"], r["before"]
        plain = r["kind"] == "plain"
        without = ["-" if plain else f"{part['without skips']:.1e}" for part in (after, before)]
        lengths = (
            [str(r["depth"]), "0", "0"]
            if plain
            else [
                f"{after['mean length']:.1f}",
                *(f"{after['share up to'][k]:.1%}" for k in ("4", "16")),
            ]
        )
        table.add_row(
            str(r["depth"]),
            r["kind"],
            f"{r['accuracy, %']:.1f}%",
            f"{after['gradient at the input']:.1e}",
            without[0],
            f"{before['gradient at the input']:.1e}",
            without[1],
            *lengths,
        )
    console.print(table)
    for r in rows:
        if r["kind"] == "plain":  # x -> f(x) has one path; its skips are not its own
            for part in (r["before"], r["after"]):
                for key in ("without skips", "mean length", "share up to", "shares"):
                    del part[key]
    result = {
        "epochs": options.epochs,
        "seed": options.seed,
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    files.write(HERE / "gradients.json", files.as_json({"command": COMMAND, "result": result}))
    figure.savefig(HERE / "gradients.png", dpi=150)


if __name__ == "__main__":
    main()
