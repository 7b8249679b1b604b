"""Why deep residual networks can be trained: the gradient by length of path.

    python -m experiments.path_integral.gradients

The networks read scikit-learn's handwritten digits, embedded in 16 dimensions. They have N blocks
x + h f_k(x) with dense branches, and a linear readout. N is 8, 32 or 128, and h is 1, 1 / sqrt(N)
or 1 / N. The plain networks x -> f_k(x) have no skips, and start from the same weights. At each of
256 test points, a network is the linear network of its gates: it has 2^N sub-paths, and C(N, k) of
them go through k branches. The gradients are measured before and after training. Writes
gradients.json and gradients.png.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.program import Parser, count
from neuralflow import plots
from neuralflow.console import progress, screen
from neuralflow.labs import paths

WIDTH = 16
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


def studied(
    kind: str, depth: int, points: Any, train: Any, test: Any, options: Namespace
) -> tuple[dict[str, Any], tuple[paths.Branches, Any]]:
    """Train one network.

    Returns what was measured before and after, and the trained branches with their gradients.
    """
    model = Network(kind, depth, rngs=nnx.Rngs(options.seed))
    before = measured(*looked_at(model, points))
    rate = optax.cosine_decay_schedule(2e-3, options.epochs * (len(train["x"]) // 64))
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    nf.training.fit(
        model, loss, optimiser, train, epochs=options.epochs, batch=64, seed=options.seed,
        progress=False,
    )  # fmt: skip
    linearisation = looked_at(model, points)
    right = float(nf.training.evaluate(model, loss, test, batch=64)["accuracy"])
    record = {"depth": depth, "kind": kind, "before": before, "after": measured(*linearisation)}
    return record | {"accuracy, %": 100 * right}, linearisation


def draw(row: Any, linearisations: dict[str, tuple[paths.Branches, Any]]) -> None:
    """Draw the gradients of one depth by length of path, and along the plain network."""
    plain = linearisations.pop("plain")
    size = np.linalg.norm(np.asarray(paths.adjoints(*plain), float), axis=-1).sum(axis=1)
    line = {"color": "black", "linewidth": 1.2, "label": "plain"}
    row[1].semilogy(np.linspace(0, 1, len(size)), size / size[-1], **line)
    paths.plots.gradient_paths(linearisations, row)
    row[1].legend(fontsize=8, frameon=False)


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the table of all networks."""
    made = Table(
        title="gradients at 256 test digits: at the input over at the output, and the share by "
        "length of path, trained"
    )
    heads = ("accuracy", "gradient", "no skips", "untrained", "no skips", "mean length")
    for column in ("depth", "network", *heads, "up to 4", "up to 16"):
        made.add_column(column, justify="left" if column == "network" else "right")
    for r in rows:
        cells: list[str] = []
        for part in (r["after"], r["before"]):
            cells.append(f"{part['gradient at the input']:.1e}")
            cells.append("-" if r["kind"] == "plain" else f"{part['without skips']:.1e}")
        lengths = [str(r["depth"]), "0", "0"]
        if r["kind"] != "plain":
            shares = (f"{r['after']['share up to'][k]:.1%}" for k in ("4", "16"))
            lengths = [f"{r['after']['mean length']:.1f}", *shares]
        made.add_row(str(r["depth"]), r["kind"], f"{r['accuracy, %']:.1f}%", *cells, *lengths)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, quick={"depths": [4], "epochs": 1})
    parser.add_argument("--depths", type=count, nargs="+", default=[8, 32, 128])
    parser.add_argument("--epochs", type=count, default=20)
    parser.add_argument("--seed", type=int, default=0)
    run = parser.begin(arguments)
    options, depths, console, rows = run.options, run.options.depths, screen(), []
    # Some gradients grow by 1e30 and more. Training stays in float32.
    with jax.enable_x64(True), progress(len(depths) * len(KINDS), console) as done:
        train, test = nf.data.digits("train"), nf.data.digits("test")
        points = {key: jnp.asarray(value[:256]) for key, value in test.items()}
        figure, axes = plots.figure(len(depths), 2, width=10.5, height=3.2 * len(depths))
        for axis, depth in zip(np.reshape(axes, (-1, 2)), depths, strict=True):
            drawn = {}
            for kind in KINDS:
                record, drawn[kind] = studied(kind, depth, points, train, test, options)
                rows.append(record)
                done(f"depth {depth}, {kind}: accuracy {record['accuracy, %']:.1f}%")
            draw(axis, drawn)
    console.print(table(rows))
    for r in rows:
        if r["kind"] == "plain":  # x -> f(x) has one path; its skips are not its own
            for part in (r["before"], r["after"]):
                for key in ("without skips", "mean length", "share up to", "shares"):
                    del part[key]
    run.write("gradients", {"result": {"rows": rows}}, {"gradients.png": figure})


if __name__ == "__main__":
    main()
