"""Trains on one device and on all, several processes on all, and prints the losses: `parallel.py FOLDER [ADDRESS COUNT INDEX]`."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import neuralflow as nf
from neuralflow import data, training

jax.config.update("jax_enable_x64", True)
folder, *cluster = sys.argv[1:]
if cluster:
    jax.distributed.initialize(cluster[0], int(cluster[1]), int(cluster[2]))


def loss(model, batch):
    return jnp.mean((model(batch["x"])[:, 0] - batch["y"]) ** 2)


def train(mesh, dtype, epochs, by_depth=False, **options):
    points = data.moons(64)
    make = lambda rngs: nf.fields.MLP(2, hidden=8, param_dtype=dtype, rngs=rngs)
    field = nf.DepthVarying(make, nf.PiecewiseConstant(8), rngs=nnx.Rngs(0))
    model = nf.NeuralODE(field, nf.FixedGrid(nf.Heun(), steps=8))
    if by_depth:
        spread = jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))), nnx.state(model))
        nnx.update(model, spread)
    points = {name: values.astype(dtype) for name, values in points.items()}
    options = {"epochs": epochs, "batch": 64, "mesh": mesh, "progress": False, **options}
    history = training.fit(model, loss, optax.adam(1e-2), points, **options).history
    spread = {leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(nnx.state(model))}
    assert not by_depth or spread == {mesh.size == 1}
    return history["loss"].tolist()


def trained(devices):
    mesh = jax.make_mesh((len(devices),), ("data",), devices=devices)
    place = f"{folder}-{len(devices)}"
    found = {np.dtype(dtype).name: train(mesh, dtype, 50) for dtype in (jnp.float32, jnp.float64)}
    train(mesh, jnp.float64, 2, folder=place)
    found["by depth"] = train(mesh, jnp.float64, 10, by_depth=True)
    found["resumed"] = train(mesh, jnp.float64, 4, folder=place, resume=True)
    return {"devices": len(devices), **found}


found = [trained(devices) for devices in ([] if cluster else [jax.devices()[:1]]) + [jax.devices()]]
if jax.process_index() == 0:
    print(json.dumps(found))
