"""What the deep limit refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.deep_limit import SCHEMES, anchor, small
from support.wrong import wrong

import neuralflow as nf
from neuralflow import data
from neuralflow.labs import deep_limit as D


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="shapes"):
        D.thorpe_van_gennip(np.ones((3, 2)), np.ones(4))
    with pytest.raises(ValueError, match="must be positive"):
        D.thorpe_van_gennip(np.ones((3, 2)), np.asarray([0, 1, 1]), tau=0.0)
    with pytest.raises(ValueError, match="layer has parameters"):
        D.discrete(replace(small(0), weights={"K": 1.0}), nf.Euler(), 4)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        next(D.descend((1, 2)))
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
    with pytest.raises(ValueError, match="three different depths or more"):
        D.scaling([])
    with pytest.raises(ValueError, match="tau must be positive"):
        D.Sobolev(0.0)
    with pytest.raises(ValueError, match="whole numbers >= 2"):
        next(D.study(small(0), SCHEMES, (1, 4)))
    with pytest.raises(ValueError, match="two depths of 32"):
        next(D.falsify(small(0), wrong(None), (8, 32)))
    with pytest.raises(TypeError, match="a study's .limit"):
        next(D.falsify(small(0), wrong(None), (32, 64)))
    with pytest.raises(ValueError, match="names and schemes, such as"):
        next(D.study(small(0), {}, (2, 4)))
    shallow, deep = (
        D.Trained(n, {"V": np.zeros((1, n, 2))}, np.zeros((1, 3)), np.zeros(1)) for n in (4, 8)
    )
    with pytest.raises(ValueError, match="the reference is the deeper network"):
        D.gaps(deep, shallow)
    with pytest.raises(ValueError, match="three different depths"):
        D.scaling([shallow, shallow, deep])
    with pytest.raises(ValueError, match="those of the penalty Sobolev"):
        D.residuals(replace(small(0), penalty=D.square), wrong(None))
    with pytest.raises(ValueError, match="finite"):
        D.thorpe_van_gennip(np.full((3, 2), np.nan), np.ones(3))
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
