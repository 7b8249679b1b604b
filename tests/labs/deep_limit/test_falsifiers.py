"""Falsifiers: problems that must not converge."""

from support.deep_limit import small

from neuralflow.labs import deep_limit as D


def test_falsifiers_do_not_converge(study):
    panels = list(D.falsify(small(2), study.limit, (32, 64)))
    assert [panel.converges for panel in panels] == [True] + [False] * 6, [
        panel.sentence() for panel in panels
    ]
    assert "order 0.9" in panels[0].sentence() and "apart" in panels[1].sentence()


def test_relu_comes_to_the_limit_of_its_own_problem(study):
    panel = D.kinked(small(2), study.limit, (32, 64))
    assert panel.name.startswith("ReLU")
    assert panel.order is not None and abs(panel.order - 1) < 0.1
