"""Is a trained residual network a diffeomorphism?

    python -m experiments.diffeo --data-dir FOLDER

Each network is an embedding, ten residual blocks and a linear readout (Rousseau & Fablet, arXiv
1805.09585). The sets are two spirals, digits, and principal components of CIFAR-10. CIFAR-10 is
left out without --data-dir. Four kinds of networks are trained with three seeds each: with shared
or own weights, with and without control. *Shared* means one field for all blocks, the exponential
of a stationary field. *Control* means blocks bounded to Lip(h V) <= 0.9, and the kinetic energy of
the samples as a penalty.

Then twenty random planar fields are trained towards targets that no diffeomorphism reaches. Each is
inspected on 10^5 points. Writes results.json and grids.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import neuralflow as nf
from experiments.program import Parser, count
from neuralflow import plots
from neuralflow.console import progress, screen
from neuralflow.labs import diffeo
from neuralflow.labs.diffeo import Bounded, block_determinants, inverse, jacobian
from neuralflow.regularisers import kinetic_energy
from neuralflow.transport import along

STEPS, BOUND, ENERGY = 10, 0.9, 1e-2
KINDS = tuple((weights, control) for weights in ("shared", "own") for control in (False, True))


class Network(nnx.Module):
    """Embedding, flow and linear readout. In the plane, the embedding is the identity."""

    def __init__(
        self, inputs: int, width: int, classes: int, weights: str, control: bool, *, rngs: nnx.Rngs
    ):
        self.embed = nnx.Linear(inputs, width, rngs=rngs) if width != inputs else None

        def make(rngs):
            return nf.fields.MLP(width, hidden=32, rngs=rngs)

        field = (
            make(rngs)
            if weights == "shared"
            else nf.DepthVarying(make, nf.PiecewiseConstant(STEPS), rngs=rngs)
        )
        if control:
            field = Bounded(field, BOUND * STEPS)
        self.flow = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=STEPS))
        self.head = nnx.Linear(width, classes, rngs=rngs)
        self.control = control

    def points(self, x: Any) -> Any:
        """Return the points where the flow starts."""
        x = x.reshape(len(x), -1)
        return x if self.embed is None else self.embed(x)


def loss(model: Network, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Compute the cross-entropy, with control plus a multiple of the kinetic energy."""
    start = model.points(batch["x"])
    y, (energy,) = (
        along(model.flow, start, kinetic_energy)
        if model.control
        else (model.flow(start), (jnp.zeros(()),))
    )
    logits = model.head(y)
    value = optax.softmax_cross_entropy_with_integer_labels(
        logits, batch["y"]
    ).mean() + ENERGY * jnp.mean(energy)
    return value, {"accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == batch["y"])}


def components(folder: Path, count: int = 48) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load CIFAR-10 by its first principal components, each of variance one.

    10000 images are for training, and 2000 for testing.
    """
    train, test = (
        nf.data.load("cifar10", split, data_dir=folder)
        for split in ("train[:10000]", "test[:2000]")
    )

    def flat(data):
        return data["image"].reshape(len(data["image"]), -1).astype(np.float32) / 255

    x = flat(train)
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov((x - mean).T))
    turn = vectors[:, -count:] / np.sqrt(values[-count:])
    return tuple(  # type: ignore[return-value]
        {"x": ((flat(d) - mean) @ turn).astype(np.float32), "y": d["label"]} for d in (train, test)
    )


def measured(model: Network, test: dict[str, Any]) -> dict[str, float]:
    """Measure on test points whether the trained network is a diffeomorphism."""
    x, y = jnp.asarray(test["x"]), jnp.asarray(test["y"])
    start = model.points(x)
    flow = model.flow
    end = flow(start)

    def predict(z):
        return jnp.argmax(model.head(z), axis=-1)

    signs = block_determinants(flow, start).sign
    try:
        inverse_errors = (
            jnp.linalg.norm(inverse(flow)(end) - start, axis=1)
            / jnp.linalg.norm(start, axis=1).mean()
        )
    except nf.SolveError:
        inverse_errors = jnp.full(len(start), jnp.nan)
    back = (
        jnp.linalg.norm(flow.reverse()(end) - start, axis=1) / jnp.linalg.norm(start, axis=1).mean()
    )
    finer = flow.with_solve(nf.FixedGrid(nf.Euler(), steps=4 * STEPS))(start)
    return {
        "accuracy, %": 100 * float(jnp.mean(predict(end) == y)),
        "least det": float(jnp.linalg.det(jacobian(flow, start)).min()),
        "folded, %": 100 * float(jnp.mean((signs <= 0).any(axis=0))),
        "inverse error": float(inverse_errors.max()),
        "walking back": float(back.max()),
        "changed by steps / 4, %": 100 * float(jnp.mean(predict(finer) != predict(end))),
    }


def learned(
    sets: dict[str, Any], epochs: dict[str, int], seeds: int, console: Console
) -> tuple[list[dict[str, Any]], list[Network]]:
    """Train networks for every set, kind and seed.

    Returns a row for each, and the networks of the first seed on the spirals.
    """
    rows, drawn = [], []
    with progress(len(sets) * len(KINDS) * seeds, console) as done:
        for name, (train, test) in sets.items():
            inputs, classes = int(np.prod(train["x"].shape[1:])), int(train["y"].max()) + 1
            for weights, control in KINDS:
                for seed in range(seeds):
                    width = 2 if name == "spirals" else 16
                    model = Network(inputs, width, classes, weights, control, rngs=nnx.Rngs(seed))
                    rate = optax.cosine_decay_schedule(1e-2, epochs[name] * (len(train["x"]) // 64))
                    nf.training.fit(
                        model,
                        loss,
                        optax.adam(rate),
                        train,
                        epochs=epochs[name],
                        batch=64,
                        seed=seed,
                        progress=False,
                    )
                    rows.append(
                        {
                            "set": name,
                            "weights": weights,
                            "control": control,
                            "seed": seed,
                            **measured(model, test),
                        }
                    )
                    if name == "spirals" and seed == 0:
                        drawn.append(model)
                    done(f"{name}, {weights} weights, control {control}, seed {seed}")
    return rows, drawn


def shown(rows: list[dict[str, Any]], seeds: int) -> Table:
    """Tabulate means over seeds, with the least determinant and the largest errors."""
    table = Table(
        title=f"test points, {seeds} seeds: mean (range); least determinant and largest errors "
        "over all seeds"
    )
    names = list(rows[0])[4:]
    for name in ("set", "weights", "control", *names):
        table.add_column(name, justify="left" if name in ("set", "weights", "control") else "right")
    for key in dict.fromkeys((row["set"], row["weights"], row["control"]) for row in rows):
        columns = {
            n: np.array([r[n] for r in rows if (r["set"], r["weights"], r["control"]) == key])
            for n in names
        }
        cells = []
        for name, values in columns.items():
            if name == "least det":
                cells.append(f"{values.min():.2g}")
            elif name in ("inverse error", "walking back"):
                cells.append("not found" if np.isnan(values).any() else f"{values.max():.1e}")
            else:
                cells.append(f"{values.mean():.1f} ({values.min():.1f}-{values.max():.1f})")
        table.add_row(key[0], key[1], "yes" if key[2] else "no", *cells)
    return table


def random_fields(count: int, steps: int, console: Console) -> list[dict[str, Any]]:
    """Train planar networks of four blocks to take random points to random targets.

    Every network is trained without the bound and with the bound.
    """
    rows = []
    points = jax.random.uniform(jax.random.key(0), (100_000, 2), minval=-1.5, maxval=1.5)
    optimiser = optax.adam(3e-2)

    @nnx.jit(static_argnames="bounded")
    def trained(key: Any, bounded: bool) -> Any:
        start, targets, weights = jax.random.split(key, 3)
        x, y = (jax.random.uniform(k, (40, 2), minval=-1.0) for k in (start, targets))

        def make(rngs):
            return nf.fields.MLP(2, hidden=16, rngs=rngs)

        field: Any = nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(weights))
        layer = nf.NeuralODE(
            Bounded(field, BOUND * 4) if bounded else field, nf.FixedGrid(nf.Euler(), steps=4)
        )
        graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

        def value(p):
            return jnp.mean((nnx.merge(graphdef, p, rest)(x) - y) ** 2)

        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            error, slopes = jax.value_and_grad(value)(params)
            updates, state = optimiser.update(slopes, state)
            return (optax.apply_updates(params, updates), state), error

        (params, _), errors = jax.lax.scan(step, (params, optimiser.init(params)), None, steps)
        return nnx.merge(graphdef, params, rest), errors[-1]

    with progress(2 * count, console) as done:
        for bounded in (False, True):
            for seed in range(count):
                layer, error = trained(jax.random.key(seed + 1), bounded)
                sign, log = nf.labs.diffeo.log_determinant(layer, points)
                signs = block_determinants(layer, points).sign
                row = {
                    "bounded": bounded,
                    "seed": seed,
                    "error": float(error),
                    "least det": float((sign * jnp.exp(log)).min()),
                }
                rows.append({**row, "folded": float(jnp.mean((signs <= 0).any(axis=0)))})
                done(f"random field {seed}, bound {bounded}")
    return rows


def picture(networks: list[Network], test: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    """Draw the plane as the four spiral networks leave it."""
    figure, axes = plots.figure(1, len(networks), width=3.1 * len(networks), height=3.5)
    for axis, model, (weights, control) in zip(axes, networks, KINDS, strict=True):
        diffeo.plots.deformed_grid(
            model.flow,
            (-1.1, -1.1),
            (1.1, 1.1),
            test["x"][:300],
            test["y"][:300],
            lines=33,
            axis=axis,
        )
        row = next(
            r
            for r in rows
            if (r["set"], r["weights"], r["control"], r["seed"]) == ("spirals", weights, control, 0)
        )
        title = (
            f"{weights} weights, {'bounded' if control else 'as trained'}\n"
            f"{row['accuracy, %']:.1f}%, folded {row['folded, %']:.1f}%"
        )
        axis.set_title(title, fontsize=9)
    return figure


EPOCHS = {"spirals": 200, "digits": 30, "CIFAR-10 components": 15}


def main(arguments: Sequence[str] | None = None) -> None:
    quick = {"seeds": 1, "fields": 1, "epochs": 1, "steps": 10}
    parser = Parser(__file__, __doc__, seeds=3, data="taken", quick=quick)
    parser.add_argument("--fields", type=count, default=20, help="random planar fields")
    parser.add_argument("--steps", type=count, default=1000, help="of the training of such a field")
    parser.add_argument("--epochs", type=count, help=f"for every set, in the place of {EPOCHS}")
    run = parser.begin(arguments)
    options, console = run.options, screen()
    spirals = tuple(nf.data.spirals(1000, turns=1.5, noise=0.01, seed=seed) for seed in (0, 1))
    sets: dict[str, Any] = {"spirals": spirals}
    if not options.quick:
        sets["digits"] = nf.data.digits("train"), nf.data.digits("test")
    if options.data_dir:
        sets["CIFAR-10 components"] = components(options.data_dir)
    epochs = {name: options.epochs or usual for name, usual in EPOCHS.items()}
    rows, drawn = learned(sets, epochs, options.seeds, console)
    console.print(shown(rows, options.seeds))
    fields = random_fields(options.fields, options.steps, console)
    for bounded in (False, True):
        part = [row for row in fields if row["bounded"] is bounded]
        least, folding = min(r["least det"] for r in part), sum(r["folded"] > 0 for r in part)
        console.print(
            f"random fields, bound {bounded}: {folding} of {len(part)} fold on 10^5 points, least "
            f"determinant {least:.2g}"
        )
    figure = picture(drawn, spirals[1], rows)
    run.write("results", {"rows": rows, "random fields": fields}, {"grids.png": figure})


if __name__ == "__main__":
    main()
