"""Training from shallow to deep: moments on finer depth, levels, and their checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.training import POINTS, equal, linear

import neuralflow as nf
from neuralflow import models, training
from neuralflow.checks import InputError
from neuralflow.depth import basis as B
from neuralflow.training.checkpoints import CheckpointError
from neuralflow.training.log import Log
from neuralflow.training.loop import Fitted

UNEVEN = (0.0, 0.1, 0.5, 1.0)
BASES = [
    nf.PiecewiseConstant(UNEVEN),
    nf.PiecewiseLinear(UNEVEN),
    nf.Legendre(3),
    nf.CubicSpline(2),
]


class Bent(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.dense(x))


class Network(nnx.Module):
    """A flow, and a head that does not vary with depth."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        field = nf.DepthVarying(Bent, nf.PiecewiseConstant(2), rngs=rngs)
        self.flow = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2))
        self.head = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.flow(x))


def params(model):
    return nnx.state(model, nnx.Param)


def random(state, seed=0):
    """A state with random positive moments."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.5, 1.5, a.shape), a.dtype) if a.ndim else a + 7, state
    )


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_a_moment_is_that_of_gradients_on_finer_depth(basis):
    """The gradient of int w(s) theta(s) ds, for a density w of the coarser basis."""
    old = nf.DepthVarying.from_stack(nnx.Dict(weight=nnx.Param(jnp.ones(basis.size))), basis)
    new = old.refine(basis.refined(3))
    points, each = np.polynomial.legendre.leggauss(6)
    cells = np.diff(new.basis.knots)[:, None]
    depths = (new.basis.knots[:-1, None] + cells * (points + 1) / 2).ravel()
    share = (cells * each / 2).ravel()
    density = share * (
        B.evaluation(basis, depths) @ np.random.default_rng(0).normal(size=basis.size)
    )

    def moments(field):
        def functional(state):
            return density @ B.evaluation(field.basis, depths) @ jax.tree.leaves(state)[0]

        gradient = jax.grad(functional)(params(field))
        return optax.TraceState(gradient), optax.ScaleByRmsState(params(old))

    first, second = training.refined_moments(moments(old), old, new)
    for a, b in zip(*map(jax.tree.leaves, (first, moments(new)[0])), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-13)
    assert all((leaf > 0).all() for leaf in jax.tree.leaves(second))


def test_moments_of_cells_are_halved_and_quartered():
    old = Network()
    new = nf.refined(old, 2)
    rate = optax.linear_schedule(0.1, 0.0, 10)
    optimiser = optax.chain(optax.clip(1.0), optax.adam(rate))
    state = random(optimiser.init(params(old)))
    moved = training.refined_moments(state, old, new)
    (adam, schedule), (before, _) = moved[1], state[1]
    assert (int(adam.count), int(schedule.count)) == (7, 7)
    for field, share in (("mu", 0.5), ("nu", 0.25)):
        a, b = getattr(adam, field), getattr(before, field)
        kernel = b["flow"]["field"]["stack"]["dense"]["kernel"][...]
        here = a["flow"]["field"]["stack"]["dense"]["kernel"][...]
        assert (here == share * jnp.repeat(kernel, 2, axis=0)).all()
        assert (a["head"]["kernel"][...] == b["head"]["kernel"][...]).all()
    # Half of the gradient in each half of a cell: the weights make the step that they would make.
    g = jax.tree.map(jnp.ones_like, params(old))
    fine = training.refined_moments(optax.TraceState(g), old, new).trace
    step, other = (
        jax.tree.leaves(jax.jit(optimiser.update)(each, held, params(model))[0])
        for each, held, model in ((g, state, old), (fine, moved, new))
    )
    for a, b in zip(step, other, strict=True):
        a = a if a.shape == b.shape else jnp.repeat(a, 2, axis=0)
        assert np.allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_momentum_of_steps_is_carried_as_the_weights_are(nesterov):
    """Cells that are cut in two make the steps of the whole cells."""
    optimiser = optax.rmsprop(0.1, eps=0, initial_scale=1, momentum=0.9, nesterov=nesterov)
    optimiser = optax.MultiSteps(optimiser, 2).gradient_transformation()
    old = Network()
    new, state = nf.refined(old, 2), optimiser.init(params(old))
    update = jax.jit(optimiser.update)
    for g in [random(params(old), seed) for seed in range(5)]:
        _, state = update(g, state)
    g = random(params(old), 5)
    fine = training.refined_moments(optax.TraceState(g), old, new).trace
    steps = update(g, state)[0], update(fine, training.refined_moments(state, old, new))[0]
    for a, b in zip(*map(jax.tree.leaves, steps), strict=True):
        a = a if a.shape == b.shape else jnp.repeat(a, 2, axis=0)
        assert np.abs(a).min() > 0.01 and np.allclose(a, b, rtol=1e-5)


def test_coefficients_of_steps_have_moments_too():
    k = nf.schemes.PerStep(jnp.asarray([0.5]))
    field = nf.from_function(lambda a, x: a * x, jnp.asarray(-1.0))
    old = nf.NeuralODE(field, nf.FixedGrid(nf.schemes.ConsistentLM(k), steps=2))
    new = nf.refined(old, 2)
    state = jax.tree.map(jnp.ones_like, optax.adam(0.1).init(params(old)))
    adam = training.refined_moments(state, old, new)[0]
    assert adam.mu["solve_data"][0][...].tolist() == [0, 0.5, 0.5]
    assert adam.nu["solve_data"][0][...].tolist() == [0.25] * 3


def masked(inner):
    return optax.masked(inner, lambda tree: jax.tree.map(lambda a: a.ndim > 1, tree))


UNDERSTOOD = {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adamw": optax.adamw(1e-3),
    "amsgrad": optax.amsgrad(1e-3),
    "adagrad": optax.adagrad(0.1),
    "lion": optax.lion(1e-3),
    "accumulated": optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
    "masked": masked(optax.adam(1e-3)),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    "cleared": optax.chain(optax.zero_nans(), optax.sgd(0.1)),
}
NOT = {
    "adafactor": optax.adafactor(1e-3),
    "lbfgs": optax.lbfgs(),
    "novograd": optax.novograd(1e-3),
    "adadelta": optax.adadelta(1.0),
    "schedule free": optax.contrib.schedule_free_adamw(1e-3),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_state_is_that_of_the_finer_model(name):
    old = Network()
    new, optimiser = nf.refined(old, 2), UNDERSTOOD[name]
    moved = training.refined_moments(optimiser.init(params(old)), old, new)
    wanted = optimiser.init(params(new))
    assert jax.tree.structure(moved) == jax.tree.structure(wanted)
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, wanted)


@pytest.mark.parametrize("name", NOT)
def test_a_state_that_is_not_understood_is_refused(name):
    old = Network()
    state = NOT[name].init(params(old))
    with pytest.raises(
        InputError, match="state holds .* is not known; take an optimiser"
    ) as caught:
        training.refined_moments(state, old, nf.refined(old, 2))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is not known"):
        climb(optimiser=NOT[name])


def climb(model=None, optimiser=None, **options):
    options = {"epochs": (2, 1), "batch": 25, "progress": False, **options}
    optimiser = optimiser or optax.adam(optax.cosine_decay_schedule(0.05, 12))
    return training.multilevel(
        model or Network(), models.classification, optimiser, POINTS, **options
    )


def timeless(history):
    return [{k: v for k, v in row.items() if "second" not in k} for row in history.rows]


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """A training of two levels, with its folder."""
    folder = tmp_path_factory.mktemp("climbed") / "run"
    return *climb(folder=folder, validation=POINTS), folder


def test_levels_are_trainings_that_go_on(climbed):
    deep, fitted, folder = climbed
    model, optimiser = Network(), optax.adam(optax.cosine_decay_schedule(0.05, 12))

    def fit(model, **options):
        options |= {"batch": 25, "validation": POINTS, "progress": False}
        return training.fit(model, models.classification, optimiser, POINTS, **options)

    first = fit(model, epochs=2)
    finer = nf.refined(model, 2)
    moments = training.refined_moments(first.optimiser, model, finer)
    second = fit(finer, epochs=3, after=first._replace(optimiser=moments))
    assert equal(deep, finer) and timeless(fitted.history) == timeless(second.history)
    assert fitted.history["epoch"].tolist() == [1, 2, 3]
    assert fitted.history["evaluations"].tolist() == [2, 2, 4]
    assert fitted.best == 3 and deep.flow.discretisation.steps == 4
    assert [int(each.count) for each in fitted.optimiser] == [12, 12]  # One schedule over all.
    assert len((folder / "history.csv").read_text().splitlines()) == 4


def test_the_folder_restores_the_deep_model(climbed):
    deep, _, folder = climbed
    restored = nf.refined(Network(seed=3), 2)
    for best in (False, True):
        assert training.restore(folder, restored, best=best) == 12 and equal(restored, deep)
    assert training.restore(folder / "level-1", Network(seed=3)) == 8
    with pytest.raises(CheckpointError, match="of another model"):
        training.restore(folder, Network())


def test_a_training_that_is_killed_reaches_the_same_bits(climbed, tmp_path, monkeypatch):
    kills = [3, 11]  # Within the first level, and within the second level.

    def save(self, *arguments, original=Log.save):
        original(self, *arguments)
        if self.saved in kills:
            kills.remove(self.saved)
            raise InterruptedError

    monkeypatch.setattr(Log, "save", save)

    def go_on():
        return climb(folder=tmp_path, validation=POINTS, save_every=3, resume=True)

    for _ in range(2):
        with pytest.raises(InterruptedError):
            go_on()
    deep, fitted = go_on()
    assert equal(deep, climbed[0]) and timeless(fitted.history) == timeless(climbed[1].history)


def test_progress_names_the_level(capsys):
    climb(epochs=(1, 1), batch=100, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:20] for line in lines] == ["level 1/2, epoch 1/1", "level 2/2, epoch 2/2"]


def test_folders_of_other_trainings_are_refused(climbed, tmp_path):
    folder = climbed[2]
    for options, said in (
        ({}, "holds a training already; go on with resume=True"),
        ({"resume": True, "epochs": (1, 1)}, r"trained with epochs=\[2, 1\] \(now \[1, 1\]\)"),
        ({"resume": True, "factor": 4}, r"factors=\[2\] \(now \[4\]\)"),
    ):
        with pytest.raises(CheckpointError, match=said):
            climb(folder=folder, validation=POINTS, **options)
    training.fit(
        Network(),
        models.classification,
        optax.sgd(0.1),
        POINTS,
        epochs=1,
        batch=50,
        folder=tmp_path,
        progress=False,
    )
    with pytest.raises(CheckpointError, match="a later level, and none of level 1"):
        climb(folder=tmp_path, resume=True)


def test_what_comes_after_is_checked(climbed):
    fitted = climbed[1]
    history = training.History([{"epoch": 1, "loss": 1.0}])
    for after, said in (
        (fitted, "epochs counts the 3 epochs of after too, and must be more, got 3"),
        (Fitted(history, 1, "epochs", optax.sgd(0.1).init({})), "of another optimiser or model"),
        (
            fitted._replace(history=history),
            r"it holds float32\[4, 2\] at .*, this one float32\[2, 2\]",
        ),
    ):
        with pytest.raises(InputError, match=said):
            training.fit(
                Network(),
                models.classification,
                optax.adam(0.1),
                POINTS,
                epochs=3,
                batch=50,
                after=after,
            )


def test_patience_counts_the_new_epochs_alone():
    """The loss of the epochs before was lower than any new one."""
    history = training.History([{"epoch": k, "loss": 0.0} for k in (1, 2, 3)])
    before = Fitted(history, 1, "epochs", optax.sgd(0.0).init(params(linear())))
    fitted = training.fit(
        linear(),
        models.classification,
        optax.sgd(0.0),
        POINTS,
        epochs=9,
        patience=2,
        validation=POINTS,
        batch=100,
        after=before,
        progress=False,
    )
    assert fitted.history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (fitted.best, fitted.stopped) == (4, "patience")
