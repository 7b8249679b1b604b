"""Functions that tests sweep. Other processes import them."""

import os
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

import neuralflow as nf

SCHEMES = {"euler": nf.Euler, "heun": nf.Heun}
GRID = nf.sweeps.grid(depth=[16, 32, 64], scheme=["euler", "heun"], seed=[0, 1])


def depth_error(depth, scheme, seed):
    """The distance of a network from the flow that it discretises."""
    with jax.enable_x64(True):
        field = nf.fields.MLP(2, hidden=4, param_dtype=jnp.float64, rngs=nnx.Rngs(seed))
        x = jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)
        network = nf.NeuralODE(field, nf.FixedGrid(SCHEMES[scheme](), steps=depth))
        flow = network.with_solve(nf.FixedGrid(nf.RK4(), steps=128))
        return {"error": jnp.max(jnp.abs(network(x) - flow(x))), "outputs": network(x)}


def counted(number, place, stop=None, how="waits"):
    """Note every call in a file. The first call for the number `stop` waits, fails or dies.

    With "kills", all calls for this number die.
    """
    calls = Path(place) / f"{number}.txt"
    with calls.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if number == stop and how == "kills":
        os._exit(1)
    if number == stop and len(calls.read_text().split()) == 1:
        if how == "fails":
            raise RuntimeError("the first call fails\nalways")
        if how == "dies":
            os._exit(1)
        end = time.monotonic() + 60
        while time.monotonic() < end and how == "waits":
            time.sleep(0.02)
    return {"square": number**2}


def calls(place):
    """The number of calls for every number."""
    return {
        int(path.stem): len(path.read_text().split()) for path in sorted(Path(place).glob("*.txt"))
    }


def square(number):
    """The square of a number."""
    return {"square": number**2}


def mean(points):
    """The mean of the numbers in a text file."""
    numbers = [float(line) for line in points.read_text().split()]
    return {"mean": sum(numbers) / len(numbers)}


def warned(number):
    """A warning that Python tells once."""
    warnings.warn("beware", stacklevel=1)
    return {}
