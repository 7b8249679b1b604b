"""A study as plain data and as pictures."""

import io
import json
from dataclasses import replace

from rich.console import Console
from support.deep_limit import SCHEMES

import neuralflow as nf
from neuralflow.cli.deep_limit import _further, _table
from neuralflow.labs import deep_limit as D


def test_a_study_is_plain_data_and_pictures(study):
    assert json.loads(json.dumps(study.record(SCHEMES)))["rows"][0]["depth"] == 8
    for picture in (D.plots.convergence(study), D.plots.further(study, SCHEMES)):
        assert len(picture.axes) == 6 and all(axis.lines for axis in picture.axes)
    # A scheme whose limit is another equation is neither extrapolated nor scaled.
    other = SCHEMES | {"heun": nf.schemes.LMResNet(-0.3)}
    record = study.record(other)
    assert list(record["richardson"]) == list(record["collapse"]) == ["euler"]
    picture = D.plots.further(study, other)
    assert len(picture.axes[3].lines) == 2 and picture.axes[5].lines
    assert "n" not in picture.axes[5].get_title().replace("heun", "").replace("theta_n", "")
    told = io.StringIO()
    printed = Console(file=told, width=200)
    for table in (_table(study, other), _further(study, other)):
        printed.print(table)
    assert told.getvalue().count("none") == 6 and "None" not in told.getvalue()
    assert D.verdict(replace(study, rows=study.rows[:1]), SCHEMES)[0] is None
