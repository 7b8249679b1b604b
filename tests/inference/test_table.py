"""The table of choices: closed forms of what they give and cost, failures, and the best ones."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow import files, inference, models, training
from neuralflow.inference import Candidate, Choice, Tradeoff

RATE, TURN = -1.3, 2.0
X = jnp.linspace(0.5, 2.0, 10)[:, None]
POINTS = jax.random.normal(jax.random.key(0), (50, 2))
FACTORS = {
    nf.Euler: (1, lambda z: 1 + z),
    nf.Midpoint: (2, lambda z: 1 + z + z**2 / 2),
    nf.RK4: (4, lambda z: 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24),
}


def grid(steps, scheme: Any = nf.Euler):
    return nf.FixedGrid(scheme(), steps=steps)


def decay(steps):
    field = nf.from_function(lambda a, x: a * x, jnp.asarray(RATE))
    return nf.NeuralODE(field, grid(steps))


def turning(steps):
    """A layer whose Euler steps multiply x_0 + i x_1 by 1 + i TURN / steps."""

    def velocity(turn, x):
        return turn * jnp.stack([-x[:, 1], x[:, 0]], axis=1)

    return nf.NeuralODE(nf.from_function(velocity, jnp.asarray(TURN)), grid(steps))


def compared(model: Any, data: Any, candidates: Any, **options: Any) -> Tradeoff:
    return inference.tradeoff(
        model, data, candidates, **{"rounds": 2, "progress": False, **options}
    )


def test_a_linear_field_has_the_closed_forms():
    pairs = [(scheme, n) for scheme in FACTORS for n in (1, 2)]
    data = {"x": X, "y": np.exp(RATE) * X}
    table = compared(decay(8), data, [grid(n, scheme) for scheme, n in pairs], batch=4)
    own, own_factor = table.choices[0], (1 + RATE / 8) ** 8
    assert (own.evaluations, own.disagreement, own.time) == (8, 0, 1)
    assert not table.classes and (table.samples, table.batch) == (10, 4)
    for choice, (scheme, n) in zip(table.choices[1:], pairs, strict=True):
        stages, factor = FACTORS[scheme]
        y = factor(RATE / n) ** n
        loss = (y - np.exp(RATE)) ** 2 * float((X**2).mean())
        off = abs(y - own_factor) / own_factor
        assert (choice.evaluations, choice.weights) == (stages * n, 1)
        assert np.isnan(choice.accuracy) and not choice.failure
        np.testing.assert_allclose((choice.loss, choice.disagreement), (loss, off), rtol=1e-9)
        gap = (y - np.exp(RATE)) ** 2 - (own_factor - np.exp(RATE)) ** 2
        change = nf.statistics.interval(gap * np.asarray(X[:, 0]) ** 2)
        np.testing.assert_allclose(choice.change, change, rtol=1e-9)
        assert choice.seconds.shape == (2,) and (choice.seconds > 0).all()
        assert choice.memory is None or choice.memory >= 0


def classes_of(points, steps):
    turned = (points[:, 0] + 1j * points[:, 1]) * (1 + 1j * TURN / steps) ** steps
    return (turned.imag > turned.real).astype(np.int32)


def test_classes_are_those_of_the_turned_points():
    points = np.asarray(POINTS)
    data = {"x": points, "y": classes_of(points, 1000)}
    table = compared(turning(12), data, [grid(1), grid(3)], batch=20)
    own = classes_of(points, 12)
    for choice, steps in zip(table.choices, (12, 1, 3), strict=True):
        classes = classes_of(points, steps)
        assert choice.accuracy == (classes == data["y"]).mean()
        assert choice.disagreement == (classes != own).mean()
        right = (classes == data["y"]).astype(float) - (own == data["y"])
        np.testing.assert_allclose(
            choice.change, nf.statistics.interval(right) if steps < 12 else 0
        )
        oracle = training.evaluate(turning(steps), models.classification, data)
        np.testing.assert_allclose(choice.loss, oracle["loss"], rtol=1e-6)
    assert table.choices[1].disagreement > 0.1


def test_the_model_itself_is_no_other_choice():
    data = {"x": X, "y": X}
    table = compared(decay(8), data, [Candidate(), grid(8)])
    assert [choice.disagreement for choice in table.choices] == [0, 0, 0]
    assert len({choice.loss for choice in table.choices}) == 1


def test_a_failure_is_a_row_and_the_others_go_on(capsys):
    # Long steps of this field leave the range of floating point.
    field = nf.from_function(lambda a, x: -a * x**3, jnp.asarray(50.0))
    bad = [
        grid(12),
        nf.Adaptive(nf.Tsit5(), max_steps=20),
        Candidate(basis=nf.Legendre(2)),
    ]
    reasons = ("left the range of floating point", "max_steps=20", "varies with depth")
    data = {"x": X, "y": X}
    table = compared(nf.NeuralODE(field, grid(400)), data, [*bad, grid(200)], progress=True)
    own, *failed, last = table.choices
    assert not own.failure and not last.failure and last.evaluations == 200
    for choice, reason in zip(failed, reasons, strict=True):
        assert reason in choice.failure and "\n" not in choice.failure
        assert np.isnan([choice.loss, choice.disagreement, choice.time, *choice.milliseconds]).all()
        assert choice not in table.front("time") and choice.failure in str(table)
    assert capsys.readouterr().out.count("[") == 6
    rows = json.loads(files.as_json(table.record()))["choices"]
    assert [row["failure"] is None for row in rows] == [True, False, False, False, True]
    assert rows[1]["loss"] is None and rows[4]["solve"] == "FixedGrid(Euler(), steps=200)"
    for cost in ("evaluations", "time"):
        assert (cost in rows[4]["best for its"]) is (last in table.front(cost))
    with pytest.raises(nf.SolveError, match="left the range"):
        compared(nf.NeuralODE(field, grid(12)), data, [])


def test_the_evaluations_are_those_of_the_solves():
    adaptive = nf.Adaptive(nf.Tsit5(), 1e-6, 1e-6)
    data = {"x": POINTS[:8] * jnp.arange(8)[:, None], "y": POINTS[:8]}
    table = compared(turning(4), data, [adaptive], batch=4)
    layer = turning(4).with_solve(adaptive)
    counts = [int(layer.solve(data["x"][k : k + 4]).evaluations) for k in (0, 4)]
    assert table.choices[1].evaluations == np.mean(counts) and counts[0] != counts[1]


def test_a_model_is_in_evaluation_mode_and_stays_as_it_is():
    streams = nnx.Rngs(0)
    norm: Any = nnx.BatchNorm(2, rngs=streams)
    dropout: Any = nnx.Dropout(0.5, rngs=streams)
    norm.mean[...] = jnp.asarray([0.3, -0.2], jnp.float32)
    model = nnx.Sequential(norm, dropout, turning(4))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    count = int(dropout.rngs.count[...])
    data = {"x": POINTS, "y": np.arange(50) % 2}
    table = compared(model, data, [])
    oracle = training.evaluate(model, models.classification, data)
    np.testing.assert_allclose(table.choices[0].loss, oracle["loss"], rtol=1e-6)
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert int(dropout.rngs.count[...]) == count and not dropout.deterministic


def synthetic(choices, classes=True):
    return Tradeoff(tuple(choices), classes, samples=1, batch=1, device="none")


def test_the_front_holds_what_nothing_beats():
    rng = np.random.default_rng(0)
    choices = [
        Choice(Candidate(), loss=loss, accuracy=accuracy, evaluations=e, time=t)
        for loss, accuracy, e, t in rng.uniform(size=(40, 4))
    ]
    for classes, better in ((True, lambda c: c.accuracy), (False, lambda c: -c.loss)):
        for cost in ("evaluations", "time"):
            costs = [getattr(c, cost) for c in choices]
            beaten = [
                any(o < own and better(d) > better(c) for o, d in zip(costs, choices, strict=True))
                for own, c in zip(costs, choices, strict=True)
            ]
            best = synthetic(choices, classes).front(cost)
            assert set(best) == {c for c, b in zip(choices, beaten, strict=True) if not b}
            assert [getattr(c, cost) for c in best] == sorted(getattr(c, cost) for c in best)
    one, two = (Choice(Candidate(), accuracy=0.5, evaluations=e) for e in (3, 3))
    dear = Choice(Candidate(), accuracy=0.5, evaluations=4)
    assert synthetic([dear, one, two]).front() in ((one,), (two,))


def test_milliseconds_are_quartiles():
    choice = Choice(Candidate(), seconds=np.asarray([5.0, 1.0, 2.0, 3.0, 4.0]) / 1e3)
    np.testing.assert_allclose(choice.milliseconds, (2, 3, 4))


@pytest.mark.parametrize("classes", [True, False])
def test_the_picture_shows_the_front(classes):
    table = synthetic(
        [
            Choice(Candidate(), 0.1, 0.9, (0.0, 0.0), 0.0, 8, time=1.0),
            Choice(Candidate(grid(4)), 0.2, 0.8, (-0.2, -0.05), 0.1, 4, time=0.7),
            Choice(Candidate(grid(4, nf.RK4)), 0.3, 0.7, (-0.3, -0.1), 0.2, 16, time=1.5),
            Choice(Candidate(grid(3)), failure="no"),
        ],
        classes,
    )
    figure = inference.plots.choices(table)
    for axis, best in zip(figure.axes, ([4, 8], [0.7, 1.0]), strict=True):
        lines: Any = {line.get_label(): line for line in axis.lines}
        np.testing.assert_allclose(lines["best choices, numbers of steps"].get_xdata(), best)
        labels = axis.get_legend_handles_labels()[1]
        assert [name for name in labels if "own" in name] == [
            "Euler, own weights",
            "RK4, own weights",
        ]
        heights = lines["best choices, numbers of steps"].get_ydata()
        np.testing.assert_allclose(heights, (-10, 0) if classes else (0.2, 0.1), atol=1e-12)
        bars: Any = [c for c in axis.collections if c.get_label() == "95% over samples"]
        ends = [segment[:, 1] for bar in bars for segment in bar.get_segments()]
        assert np.allclose(ends, [(-20, -5), (0, 0)]) if classes else not bars


def test_a_single_positive_target_makes_no_one_hot_rows():
    model = nnx.Sequential(decay(4), lambda y: y[:, 0])
    data = {"x": X, "y": np.eye(10)[3]}
    table = compared(model, data, [grid(1)])
    assert np.isnan(table.choices[0].accuracy)
    off = np.asarray(model(X)) - data["y"]
    assert np.isclose(table.choices[0].loss, (off**2).mean())
