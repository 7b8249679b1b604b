"""The character model of `experiments.transformer`: its text, its causality, its training."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from refusals import refuses

from experiments.transformer import __main__ as command, limits, rates, sphere, text
from experiments.transformer.model import Model, bits, by_part, generated


@pytest.fixture(scope="module")
def tokens():
    """A small text with its tests."""
    rng = np.random.default_rng(0)
    return text.Text(*(rng.integers(0, 96, 4000).astype(np.uint8) for _ in range(2)))


def tiny(depth=2, **rest):
    return Model(depth, width=8, heads=2, context=6, rngs=nnx.Rngs(0), **rest)


def test_text_comes_back_and_other_characters_become_question_marks():
    assert len(text.ALPHABET) == len(set(text.ALPHABET)) == 96
    assert text.decode(text.encode(text.ALPHABET)) == text.ALPHABET
    assert text.decode(text.encode("a\tb\u00e9\U0001f600~")) == "a?b??~"


def test_the_sources_are_in_order_and_without_tests():
    paths = text.sources()
    assert [p.name for p in paths if p.parent.name == "json"] == [
        "__init__.py", "decoder.py", "encoder.py", "scanner.py", "tool.py",
    ]  # fmt: skip
    assert not any({"test", "tests", "site-packages"} & set(p.parts) for p in paths)


def test_windows_are_pieces_of_the_text_and_belong_to_their_key():
    whole = jnp.arange(50)
    drawn = text.windows(whole, 200, 6, jax.random.key(0))
    assert drawn.shape == (200, 7)
    assert (jnp.diff(drawn, axis=1) == 1).all() and drawn.min() == 0 and drawn.max() == 49
    assert jnp.array_equal(drawn, text.windows(whole, 200, 6, jax.random.key(0)))
    assert not jnp.array_equal(drawn, text.windows(whole, 200, 6, jax.random.key(1)))


def test_every_character_but_the_first_is_predicted_once():
    windows = text.spread(np.arange(31), 6)
    assert windows[:, 1:].ravel().tolist() == list(range(1, 31))
    assert text.spread(np.arange(31), 6, 2)[:, 0].tolist() == [0, 24]


def test_unigrams_of_equal_shares_have_the_bits_of_their_number():
    assert np.isclose(text.unigram_bits(np.tile(np.arange(8), 5)), 3)


@pytest.mark.parametrize("scheme", ["lie-trotter", "macaron"])
def test_a_character_sees_those_before_it_alone(scheme):
    model, tokens = tiny(scheme=scheme), jnp.arange(6)[None] * 7
    changed = tokens.at[0, 4].set(90)
    logits, other = (nnx.jit(lambda m, x: m(x))(model, x) for x in (tokens, changed))
    assert jnp.array_equal(logits[:, :4], other[:, :4])
    assert (jnp.abs(logits - other).max(-1)[0, 4:] > 1e-6).all()


def test_a_model_that_knows_nothing_needs_the_logarithm_of_96():
    model = tiny()
    model.head.kernel[...] = jnp.zeros_like(model.head.kernel[...])
    assert np.isclose(bits(model, {"tokens": jnp.arange(14).reshape(2, 7)}), np.log2(96))


def test_the_blocks_have_a_rate_of_their_own():
    params = nnx.state(tiny(), nnx.Param)
    optimiser = by_part(optax.sgd(2.0), optax.sgd(1.0))
    ones = jax.tree.map(jnp.ones_like, params)
    updates: Any
    updates, _ = optimiser.update(ones, optimiser.init(params), params)
    assert {float(a.min()) for a in jax.tree.leaves(updates["flow"])} == {-2.0}
    rest = {float(a.min()) for k in updates if k != "flow" for a in jax.tree.leaves(updates[k])}
    assert rest == {-1.0}


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_the_order_comes_back_from_gaps_to_a_finite_reference(p):
    gaps = [3 * (depth**-p - 32**-p) for depth in limits.DEPTHS[:-1]]
    assert np.isclose(limits.order(gaps), p, atol=1e-5)


def test_every_column_of_the_table_of_limits_has_a_head():
    summary = json.loads(Path(limits.__file__).with_suffix(".json").read_text())["summary"]
    columns = limits.table(summary).columns
    assert all(column.header and len(list(column.cells)) == len(summary) for column in columns)


def test_weights_on_equal_functions_of_depth_have_no_gap():
    few, many = (
        limits.weights(limits.built(depth, 0, limits.SETTINGS["sgd"])) for depth in (4, 32)
    )
    assert np.array_equal(few, many)


def test_the_change_from_few_blocks_to_many_is_that_of_each_seed():
    losses = {f"{a} {p} {d}": [] for a in rates.ALPHAS for p in rates.POWERS for d in rates.DEPTHS}
    losses |= {"1 -8 4": [3.0, 3.5], "1 -8 32": [3.1, 3.6]}
    (row,) = rates.summary(losses).values()
    assert np.isclose(row["change"]["mean"], 0.1)


def test_two_particles_on_the_circle_meet_and_their_energy_rises():
    angle = 0.8
    start = jnp.asarray([[np.cos(a), np.sin(a)] for a in (0.0, angle)])
    times = np.linspace(0.0, 12.0, 61)
    states = sphere.walked(start, 1.0, times)
    assert np.isclose(sphere.rate(times, sphere.farthest(states)), 2, atol=1e-3)
    assert (np.diff(sphere.energy(states, 1.0)) > 0).all()


def test_a_run_writes_its_results_and_goes_on(tmp_path, tokens, monkeypatch):
    monkeypatch.setattr(command, "EVERY", 2)
    monkeypatch.setattr(command, "CHARACTERS", 5)
    sizes = {"depth": 2, "width": 8, "heads": 2, "context": 6, "batch": 4}
    short = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]

    def run():
        words = [*short, "--steps", "4", "--out", str(tmp_path)]
        return command.trained(command.parser().begin(words), tokens)

    result = run()
    kept = json.loads((tmp_path / "language.json").read_text())["result"]
    assert kept["test, bits per character"] == result["test, bits per character"] < 8
    assert (len(kept["prompt"]), len(kept["generated"])) == (6, 5)
    assert run()["training, bits per character"] == result["training, bits per character"]


def test_steps_that_are_no_whole_epochs_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--steps", "300", "--out", str(tmp_path)])
    assert "--steps must be at most 250 or a multiple of 250, got 300" in capsys.readouterr().err


test_bad_input_is_refused = refuses(
    {
        "more tokens than positions": (
            lambda: tiny()(jnp.zeros((1, 7), int)),
            "at most 6 in a row, .* got 7",
        ),
        "a prompt of less than a window": (
            lambda: generated(tiny(), np.zeros(3, int), 2, jax.random.key(0)),
            "prompt must have 6 tokens or more, got 3",
        ),
        "a scheme without a name": (lambda: tiny(scheme="rk4"), "scheme"),
    }
)
