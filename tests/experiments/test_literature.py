"""The arithmetic of the rows of the literature, on data of known exponents.

`test_programs` runs every row.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from experiments.literature import (
    chizat,
    cohen,
    depth_transfer,
    gradient_error,
    hurst,
    marion,
    sander,
)
from experiments.literature.__main__ import NAMES, module
from experiments.literature.statements import Statement, chosen, orders, sentence
from neuralflow import files
from neuralflow.labs import deep_limit

DEPTHS = (32, 64, 128)


def statement(values, low=0.9, high=1.1):
    return Statement("order one", "nowhere", "order", values, low, high, "nothing")


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.99, 1.0, 1.01], "agrees"),
        ([0.49, 0.5, 0.51], "differs"),
        ([0.8, 1.0, 1.2], "undecided"),
        ([1.0, 1.0], "agrees"),  # no spread at all
        ([1.0], "undecided"),  # one seed tells nothing of its spread
    ],
)
def test_a_verdict_is_that_of_the_whole_interval(values, verdict):
    assert statement(values).verdict == verdict
    record = statement(values).record()
    assert record["verdict"] == verdict and record["seeds"] == values
    files.as_json(record)


def test_the_sentence_names_what_does_not_agree():
    text = sentence([statement([1.0, 1.0]), statement([0.4, 0.6])])
    assert text.startswith("1 of 2 statements agree") and "differing: order = 0.500" not in text
    assert "undecided: order = 0.500" in text


def test_a_statement_without_an_upper_end_agrees_with_anything_above():
    assert statement([2.8, 2.9, 3.0], 1.9, np.inf).verdict == "agrees"
    assert statement([2.8], 1.9, np.inf).band == "from 1.9"
    assert statement([2.8], -np.inf, 0.5).band == "at most 0.5"
    assert statement([2.8]).band == "0.9 to 1.1"


def test_orders_are_those_of_the_data_and_leave_shallow_depths_out():
    depths = (8, *DEPTHS)
    errors = np.asarray([[n**-1.0, 3.0 / n**2] for n in depths])
    errors[0] = 100.0
    assert np.allclose(orders(depths, errors), [1, 2])


def test_rows_are_chosen_by_their_entries_in_order_of_depth():
    rows = [{"depth": n, "kind": k, "error": [n]} for n in (8, 4) for k in "ab"]
    depths, errors = chosen(rows, "error", kind="b")
    assert depths == [4, 8] and errors.tolist() == [[4], [8]]


def grid():
    return np.meshgrid([4.0, 8, 16, 32, 64], [1.0, 16, 256], indexing="ij")


@pytest.mark.parametrize("form", chizat.FORMS)
def test_the_fit_finds_planted_coefficients_and_refuses_other_forms(form):
    depths, widths = (axis.ravel() for axis in grid())
    first, second = chizat.FORMS[form](depths, widths)
    errors = 0.01 + 0.3 * first + 2.0 * second
    fits = {name: chizat.fit(name, depths, widths, errors) for name in chizat.FORMS}
    assert np.allclose(fits[form][0], [0.01, 0.3, 2.0]) and fits[form][1] < 1e-10
    assert all(misfit > 0.05 for name, (_, misfit) in fits.items() if name != form)


def test_midpoint_steps_of_the_mean_ode_are_of_order_two():
    u, v = jax.random.normal(jax.random.key(0), (2, 5, 8))
    x = jax.random.normal(jax.random.key(1), (3, 8))

    def walked(depth, midpoint):
        tied = (jnp.broadcast_to(a, (depth, *a.shape)) for a in (u, v))
        return chizat.network((next(tied), next(tied)), x, midpoint)

    exact = walked(2048, True)
    for midpoint, order in ((False, 1), (True, 2)):
        errors = [float(jnp.linalg.norm(walked(n, midpoint) - exact)) for n in DEPTHS]
        assert np.allclose(orders(DEPTHS, np.asarray(errors)[:, None]), order, atol=0.1)


def test_the_best_rate_is_the_vertex_of_a_parabola():
    powers = np.arange(-10, 0)
    rates = powers.tolist()
    assert np.isclose(depth_transfer.best(rates, np.exp((powers + 4.3) ** 2)), -4.3)
    assert depth_transfer.best(rates, np.exp(1.0 * powers)) == -10  # at the end of the rates
    blown = np.where(powers > -5, np.inf, np.exp(-1.0 * powers))
    assert depth_transfer.best(rates, blown) == -5


def test_slopes_and_prices_of_rates_that_fall_as_the_depth():
    powers = np.asarray(depth_transfer.POWERS, float)
    rows = [
        {"depth": n, "alpha": 0.0, "losses": np.exp((powers + 3 + np.log2(n)) ** 2 / 50)[:, None]}
        for n in (2, 4, 8, 16)
    ]
    assert np.allclose(depth_transfer._slopes(rows, 0.0), -1)
    assert np.allclose(depth_transfer._prices(rows, 0.0), 9 / 50 / np.log(2))


def weights(start, depth):
    """Weights (1, depth, 2, 2) that fall as depth^-0.2: smooth in depth, or noise."""
    s = np.arange(depth) / depth
    rough = np.random.default_rng(0).choice([-1.0, 1.0], (depth, 2, 2))
    shape = np.cos(s)[:, None, None] * np.ones((2, 2)) if start == "smooth" else rough
    return depth**-0.2 * shape[None]


@pytest.mark.parametrize(("start", "increment"), [("smooth", 1.0), ("independent", 0.0)])
def test_exponents_of_planted_weights_tell_the_regime(start, increment):
    rows = [
        {"depth": n, "start": start} | cohen.statistics(weights(start, n), np.asarray([n**-0.8]))
        for n in DEPTHS
    ]
    found = {name: values[0] for name, values in cohen.exponents(rows, start=start).items()}
    assert np.isclose(found["alpha"], 0.8) and np.isclose(found["beta"], 0.2, atol=0.01)
    assert np.isclose(found["increment"], increment, atol=0.1)
    assert np.isclose(found["root"], 0.3, atol=0.02)
    assert cohen.regime(found["increment"]) == {1.0: "smooth", 0.0: "noise"}[increment]
    assert cohen.regime(0.5) == "rough"


def test_the_boundary_is_where_depth_does_not_matter():
    betas = np.asarray(hurst.BETAS)
    shallow, deep = (n ** (0.63 - betas) for n in (250, 1000))
    assert np.isclose(hurst.boundary(shallow, deep), 0.63)
    assert hurst.boundary(deep, shallow) > 1.3  # the identity grows with depth to the last scaling
    assert hurst.boundary(deep, deep / 2) == betas[0]  # no scaling grows with depth


def test_the_flow_of_linear_weights_is_that_of_the_ode():
    matrix = np.random.default_rng(0).normal(size=(4, 4))
    w = {"V": jnp.broadcast_to(matrix, (17, 4, 4))}
    x = jnp.eye(4)
    exact = expm(matrix).T
    assert np.allclose(sander.walk(sander.flow, w, x)[0], exact, atol=1e-6)


@pytest.mark.parametrize("back", [sander.euler_back, sander.heun_back])
def test_the_memory_free_adjoint_is_exact_where_states_come_back_exactly(back):
    w = {"V": jnp.zeros((5, 4, 3)), "U": jax.random.normal(jax.random.key(0), (5, 3, 4))}
    x, y = jax.random.normal(jax.random.key(1), (2, 6, 4))
    step = sander.euler if back is sander.euler_back else sander.heun
    exact = jax.grad(sander.loss, 1)(step, w, x, y)
    ours = sander.memory_free(step, back, w, x, y)
    assert np.linalg.norm(exact["V"]) > 0.1
    assert all(np.allclose(ours[name], exact[name], atol=1e-12) for name in w)


def test_the_limit_of_gradients_is_that_of_fine_steps():
    case = gradient_error.case(0, gradient_error.KINDS.index("jumping"))
    limit = gradient_error.of_limit(*case)
    fine = gradient_error.of_steps(gradient_error.nf.FixedGrid(gradient_error.nf.Heun(), 4096))
    assert jnp.linalg.norm(fine(*case) - limit) < 1e-3 * jnp.linalg.norm(limit)


def test_a_scaling_of_marion_becomes_statements():
    kinds = {f"{kind} {name}": np.ones(3) for kind in marion.KINDS for name in "VW"}
    rest = {f"{kind} {name}": np.ones(3) for kind in ("gaps",) for name in ("output", "loss")}
    rest |= {f"distance {name}": np.ones((2, 3)) for name in ("V", "W", "output", "loss")}
    rows = [
        {"protocol": p, "depths": [4, 8, 16], "iterations": 1} | kinds | rest
        for p in deep_limit.PROTOCOLS
    ]
    statements, _ = marion.report(rows)
    verdicts = {s.what: s.verdict for s in statements}
    assert verdicts[f"exponent of gaps V, {marion.GELU}"] == "agrees"
    assert verdicts[f"exponent of variation V, {marion.GELU}"] == "differs"


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_three_sizes_with_runs_of_plain_data(name):
    for size in ("quick", "default", "paper"):
        runs = module(name).configurations(size, 3)
        assert runs and all(run["seeds"] == 3 for run in runs)
        files.as_json(runs)
