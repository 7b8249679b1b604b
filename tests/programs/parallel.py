"""Trains on every device there is and prints the losses.

It is called as `parallel.py FOLDER [ADDRESS COUNT INDEX]`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import neuralflow as nf
from neuralflow import data, training
from neuralflow.training.checkpoints import Checkpoints

jax.config.update("jax_enable_x64", True)
folder, *cluster = sys.argv[1:]
if cluster:
    jax.distributed.initialize(cluster[0], int(cluster[1]), int(cluster[2]))


def loss(model, batch):
    return jnp.mean((model(batch["x"])[:, 0] - batch["y"]) ** 2)


def train(dtype, epochs, by_depth=False, **options):
    points = data.moons(64)

    def make(rngs):
        return nf.fields.MLP(2, hidden=8, param_dtype=dtype, rngs=rngs)

    field = nf.DepthVarying(make, nf.PiecewiseConstant(8), rngs=nnx.Rngs(0))
    model = nf.NeuralODE(field, nf.FixedGrid(nf.Heun(), steps=8))
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    if by_depth:
        spread = jax.tree.map(
            lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))),
            nnx.state(model),
        )
        nnx.update(model, spread)
    points = {name: values.astype(dtype) for name, values in points.items()}
    options = {"epochs": epochs, "batch": 64, "mesh": mesh, "progress": False, **options}
    history = training.fit(model, loss, optax.adam(1e-2), points, **options).history
    spread = {leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(nnx.state(model))}
    assert not by_depth or spread == {jax.device_count() == 1}
    return history["loss"].tolist()


def pieces(place):
    """The largest number of pieces with a digest of their own, of an array in the last checkpoint.

    A record that lacks a digest is refused.
    """
    store = Checkpoints(place / "checkpoints")
    assert store.last is not None
    held = store.read_record(store.last)["arrays"].values()
    assert all(len(mark) == 64 and int(mark, 16) for of in held for _, mark in of["pieces"])
    return max(len(of["pieces"]) for of in held)


def drawn_alike():
    """Whether samples on many devices are given the same bits as samples on one device.

    Random networks and their limits are asked, compiled as users do.
    """
    jax.config.update("jax_disable_most_optimizations", False)
    field = nf.labs.stochastic.StochasticDepth(
        nf.fields.MLP(2, hidden=8, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1)
    )
    x, key = jax.random.normal(jax.random.key(0), (64, 2), jnp.float32), jax.random.key(1)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    models = nf.labs.stochastic.RandomNetwork(field, 4), nf.labs.stochastic.NeuralSDE(field, 4)
    pairs = [(model.sample(x, key), model.sample(spread, key)) for model in models]
    return all(
        not two.sharding.is_fully_replicated and np.array_equal(one, two) for one, two in pairs
    )


results: dict[str, Any] = {"losses": train(jnp.float64, 50)}
if jax.device_count() > 1:
    train(jnp.float64, 5, by_depth=True, folder=f"{folder}-by-depth")
    results["pieces"] = pieces(Path(f"{folder}-by-depth"))
    results["by depth"] = train(
        jnp.float64, 10, by_depth=True, folder=f"{folder}-by-depth", resume=True
    )
if jax.device_count() == 8:
    train(jnp.float64, 2, folder=folder)
    results["resumed"] = train(jnp.float64, 4, folder=folder, resume=True)
    results["drawn alike"] = drawn_alike()
if jax.process_index() == 0:
    print(json.dumps({"devices": jax.device_count(), **results}))
