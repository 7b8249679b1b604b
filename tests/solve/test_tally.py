"""The work of layers, counted."""

import jax
import jax.numpy as jnp

import neuralflow as nf


def test_the_work_of_nested_layers_is_counted_where_it_can_be():
    layer = nf.NeuralODE(nf.from_function(lambda params, x: -x), nf.FixedGrid(nf.RK4(), steps=3))

    def counted(x):
        from neuralflow.solve.tally import tally

        with tally() as work:
            y = layer(layer(x))
            # This call has a trace of its own.
            jax.vmap(layer)(x[None])
            jax.checkpoint(lambda x: layer(x))(x)
        return y.sum(), {name: total.get_value() for name, total in work.items()}

    x = jnp.ones((2, 1))
    for run in (counted, jax.jit(counted), jax.value_and_grad(counted, has_aux=True)):
        outputs = run(x)
        work = outputs[0][1] if isinstance(outputs[0], tuple) else outputs[1]
        assert int(work["evaluations"]) == 24 and int(work["accepted"]) == 6
