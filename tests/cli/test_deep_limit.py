"""The command deep-limit, as a person or a script runs it."""

import json
import subprocess
import time

import numpy as np
from support.cli import ENVIRONMENT, command


def test_a_sweep_that_is_killed_goes_on_where_it_was_and_writes_what_it_says(tmp_path, here):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 2))
    np.savez(tmp_path / "points.npz", x=x, y=(x[:, 0] > 0).astype(float))
    options = (
        "deep-limit",
        "--depths",
        2,
        4,
        "--schemes",
        "euler",
        "heun",
        "--data",
        "points.npz",
        "--out",
        "here/there",
    )
    began = subprocess.Popen(
        command(*options), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    out = tmp_path / "here" / "there"
    minima = out / "minima"
    while len(list(minima.glob("euler-*.npz"))) < 2:
        assert began.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    began.kill()
    began.wait()
    left = {path.name: path.read_bytes() for path in minima.glob("*.npz")}
    rows = json.loads((out / "results.json").read_text())["rows"]
    status, told = here(*options, "--resume", cwd=tmp_path)
    assert status == 0, told
    assert "[5/5] heun, depth 4" in told
    assert "give at least two depths of 32 or more" in told
    assert sorted(p.name for p in out.iterdir()) == [
        "deep-limit.png",
        "further.png",
        "minima",
        "results.json",
        "table.txt",
    ]
    # Nothing was computed again.
    assert all((minima / name).read_bytes() == held for name, held in left.items())
    record = json.loads((out / "results.json").read_text())
    whole = record["rows"]
    assert [row["depth"] for row in whole] == [2, 4, 2, 4] and whole[: len(rows)] == rows
    assert record["options"]["data"] == "points.npz"
    assert "heun" in (out / "table.txt").read_text()
    assert (out / "deep-limit.png").read_bytes()[:4] == b"\x89PNG"
    # A copy of another minimiser and a damaged one are computed again, to the same bits.
    (minima / "heun-4.npz").write_bytes(left["euler-4.npz"])
    (minima / "euler-2.npz").write_bytes(left["euler-2.npz"][:-9])
    status, told = here(*options, "--resume", cwd=tmp_path)
    assert status == 0, told
    assert json.loads((out / "results.json").read_text())["rows"] == whole
    np.savez(tmp_path / "points.npz", x=x + 1.0, y=(x[:, 0] > 0).astype(float))
    for more in ((), ("--seed", 1)):
        status, told = here(*options, *more, "--resume", cwd=tmp_path)
        assert status == 2 and "holds minimisers of other data or options" in told
        np.savez(tmp_path / "points.npz", x=x, y=(x[:, 0] > 0).astype(float))
