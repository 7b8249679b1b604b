"""A study as plain data and as pictures."""

import json
from dataclasses import replace

from support.deep_limit import SCHEMES

from neuralflow.labs import deep_limit as D


def test_a_study_is_plain_data_and_pictures(study):
    assert json.loads(json.dumps(study.record(SCHEMES)))["rows"][0]["depth"] == 8
    for picture in (D.plots.convergence(study), D.plots.further(study, SCHEMES)):
        assert len(picture.axes) == 6 and all(axis.lines for axis in picture.axes)
    assert D.verdict(replace(study, rows=study.rows[:1]), SCHEMES)[0] is None
