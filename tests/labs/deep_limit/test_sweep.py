"""Studies: orders in depth, verdicts, and what is kept on disk."""

import json
from dataclasses import replace

import numpy as np
from flax import nnx
from support.deep_limit import SCHEMES, small

import neuralflow as nf
from neuralflow import data
from neuralflow.labs import deep_limit as D


def test_orders_on_a_small_nonlinear_problem(study):
    agreed, sentences = D.verdict(study, SCHEMES, {1: 0.1, 2: 0.1})
    assert agreed, sentences
    assert {where: len(met) for where, met in study.basins.items()} == {
        "discrete": 2,
        "continuum": 2,
    }
    assert max(row.gradient for row in study.rows) < 1e-9 and study.curvature > 0.1


def test_recovery_forward_residual_and_richardson(study):
    for name, order in (("euler", 1), ("heun", 2)):
        for what in ("recovery", "forward", "residual"):
            assert abs(study.orders()[name][what] - order) < 0.1
        ((n, plain, better),) = study.extrapolated(name, order)
        assert n == 32 and better < 0.1 * plain
        ((_, apart),) = study.collapse(name, order)
        assert apart < 0.05


def test_a_wrong_limit_is_noticed(study):
    moved = {name: 1.02 * value for name, value in study.limit.theta.items()}
    shifted = replace(study.limit, energy=1.02 * study.limit.energy, theta=moved)
    rows = [
        replace(row, distances=D.distances(study.weights[row.scheme, row.depth], shifted))
        for row in study.rows
    ]
    agreed, sentences = D.verdict(replace(study, limit=shifted, rows=rows), SCHEMES)
    assert agreed is False and any("instead of" in s for s in sentences)


def test_a_distance_may_not_fall_where_the_limit_is_another_equation(study):
    other = {"euler": nf.schemes.LMResNet(-0.3), "heun": nf.Heun()}
    agreed, sentences = D.verdict(study, other, {1: 0.1, 2: 0.1})
    assert agreed is False
    assert "sup 0.95 instead of none" in sentences[0]
    assert "another equation" in sentences[0] and "another" not in sentences[1]
    # The same study with distances that stay, as those of the LM-ResNet do.
    first = study.of("euler")[0]
    rows = [replace(first, depth=row.depth) for row in study.of("euler")]
    stalled = replace(study, rows=rows)
    assert D.verdict(stalled, other)[0] and D.verdict(stalled, SCHEMES)[0] is False
    grown = [replace(row, forward=row.forward * row.depth) for row in rows]
    assert D.verdict(replace(study, rows=grown), other)[0]
    fallen = [replace(row, forward=row.forward / row.depth**0.3) for row in rows]
    assert not D.verdict(replace(study, rows=fallen), other)[0]
    assert D.verdict(replace(study, rows=fallen), other, {1: 0, 2: 0, None: 0.31})[0]


def test_a_study_goes_on_from_what_is_on_disk(study, kept, tmp_path, monkeypatch):
    folder = D.Folder(tmp_path)
    folder.update(kept)
    assert set(folder) == set(kept) and len(folder) == 9
    whole = (tmp_path / "heun-64.npz").read_bytes()
    for cut in (b"cut off", whole[:100], whole[: len(whole) // 2]):
        (tmp_path / "heun-64.npz").write_bytes(cut)
        assert "heun-64" not in folder
    known = dict(folder.items())
    assert "heun-64" not in known and "heun-32" in known
    missing = []
    monkeypatch.setattr(
        "neuralflow.labs.deep_limit.sweep.minimise",
        lambda objective, starts: missing.append(objective) or [study.weights["heun", 64]],
    )
    *_, (_, again) = D.study(small(2), SCHEMES, (8, 32, 64), starts=6, kept=folder)
    assert len(missing) == 1 and missing[0].basis.count == 64
    assert json.dumps(again.record(SCHEMES)) == json.dumps(study.record(SCHEMES))


def test_a_layer_of_another_form_on_real_data_has_the_same_orders():
    pair = data.digits_pair()
    paper = D.thorpe_van_gennip(pair["x"], pair["y"])
    problem = replace(
        paper, layer=lambda: nf.fields.MLP(4, hidden=3, rngs=nnx.Rngs(0)), weights=0.025
    )
    whole = D.continuum(problem, terms=12, steps=24)
    limit = D.minimise(whole, D.random_starts(whole, 2, seed=0))[0]
    for scheme, order in ((nf.Euler(), 1), (nf.Heun(), 2)):
        errors, last = [], limit
        for depth in (32, 64):
            objective = D.discrete(problem, scheme, depth)
            last = D.minimise(objective, [D.restarted(objective, last)])[0]
            errors.append(D.distances(last, limit))
        for distance in ("energy", "sup", "l2", "prediction"):
            assert abs(np.log2(errors[0][distance] / errors[1][distance]) - order) < 0.1, (
                scheme,
                distance,
            )
        assert abs(np.log2(errors[0]["h1"] / errors[1]["h1"]) - 1) < 0.05
