"""float64 throughout, shapes checked, no network: the tests' choice, not the library's."""

import ctypes
import gc
import os
import socket
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from flax import nnx
from jaxtyping import install_import_hook
from support.shapes import shapes

with install_import_hook("neuralflow", f"{shapes.__module__}.{shapes.__name__}"):
    import neuralflow as nf

jax.config.update("jax_enable_x64", True)


def pytest_configure(config):
    """Compiles quickly, and once for all processes of a run.

    Most of what tests wait for is XLA. Its optimisations are left out, except for tests that are
    marked `optimised`. What is compiled is shared by the workers and the processes that tests
    start, until the run ends. `XLA_FLAGS= JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` compiles as
    users do.
    """
    config.addinivalue_line(
        "markers",
        "optimised: compiled as users do, by test_as_users_compile.py in a process of its own",
    )
    config.addinivalue_line(
        "markers", "device: also run on accelerators, by `python -m experiments.accelerator`"
    )
    # Traces are made of many objects without cycles, which Python would look through all the time.
    gc.set_threshold(100_000)
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    jax.config.update("jax_disable_most_optimizations", not optimised())
    # Later releases do not know these flags, and they end at a flag that they do not know.
    if jax.__version_info__ < (0, 11):
        flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ.setdefault("XLA_FLAGS", flags)
    if not hasattr(config, "workerinput") and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


def optimised():
    return os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"


def pytest_collection_modifyitems(config, items):
    left = [] if optimised() else [item for item in items if item.get_closest_marker("optimised")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Only this machine can be reached: nothing downloads unless asked to."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise OSError(f"a test wanted to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def bounded():
    """Drops what a worker compiled where its memory exceeds 2.4 GB: two fit a small machine.

    A program that a later test needs again is read from the folder that the workers share.
    """
    yield
    if psutil.Process().memory_info().rss > 2.4e9:
        jax.clear_caches()
        gc.collect()
        # The C library of Linux keeps freed memory until it is told to give it back.
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)


@pytest.fixture
def free_address():
    """An address on this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (5, 2))


@pytest.fixture
def mlp():
    """Builds a float64 field with depth-varying weights on a basis."""

    def build(basis, time=True, dtype=jnp.float64, init=nf.independent, seed=0):
        def make(rngs):
            return nf.fields.MLP(2, hidden=8, time=time, param_dtype=dtype, rngs=rngs)

        return nf.DepthVarying(make, basis, rngs=nnx.Rngs(seed), init=init)

    return build


@pytest.fixture
def worst():
    """Largest absolute difference of two pytrees."""

    def difference(a, b):
        a, b = jax.tree.leaves(a), jax.tree.leaves(b)
        assert len(a) == len(b) > 0
        return max(
            float(np.max(np.abs(np.asarray(p) - np.asarray(q)))) for p, q in zip(a, b, strict=True)
        )

    return difference
