"""What the deep limit refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.deep_limit import anchor
from support.wrong import wrong

import neuralflow as nf
from neuralflow import data
from neuralflow.labs import deep_limit as D


def test_bad_input(tmp_path):
    arguments = {**dict.fromkeys(("loss", "batch", "optimiser"), print), "steps": 1}
    with pytest.raises(ValueError, match="one leading axis of one length"):
        next(
            D.train(
                (2,),
                {"a": jnp.ones(2), "b": jnp.ones(3)},
                make=wrong(lambda n, case: None),
                **arguments,
            )
        )
    with pytest.raises(TypeError, match="must be an nnx.Module, got"):
        next(D.train((2,), jnp.arange(2), make=wrong(lambda n, case: None), **arguments))
    with pytest.raises(ValueError, match="returns varies with depth"):
        next(
            D.train(
                (2,),
                jnp.arange(2),
                make=lambda n, case: nnx.Linear(1, 1, rngs=nnx.Rngs(0)),
                **arguments,
            )
        )
    with pytest.raises(ValueError, match="no file"):
        data.from_file(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match="write one with np.savez"):
        data.from_file(tmp_path / "one.npy")
    (tmp_path / "bad.npz").write_text("nothing of the kind")
    with pytest.raises(ValueError, match="not an .npz file"):
        data.from_file(tmp_path / "bad.npz")
    np.savez(tmp_path / "half.npz", x=np.ones((2, 2)))
    with pytest.raises(ValueError, match="must hold arrays x"):
        data.from_file(tmp_path / "half.npz")
    with pytest.raises(ValueError, match="components must be at most"):
        data.digits_pair(components=100)
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="float64"):
        D.discrete(anchor(), nf.Euler(), 4)
