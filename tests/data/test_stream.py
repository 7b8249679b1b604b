"""Streams of examples."""

import numpy as np
from support.data import TFDS, real

from neuralflow import data


@real
def test_a_stream_is_its_source_shuffled_by_seed_and_epoch():
    examples = data.source("mnist", "test[:100]", data_dir=TFDS)
    whole = data.load("mnist", "test[:100]", data_dir=TFDS, cache=False)
    stream = data.Stream(examples)
    order = np.random.default_rng((5, 2)).permutation(100)
    batches = list(stream.batches(32, 5, 2))
    assert len(batches) == 3
    for k, batch in enumerate(batches):
        assert (batch["image"] == whole["image"][order[32 * k : 32 * k + 32]]).all()
    late = list(stream.batches(32, 5, 2, start=2))
    assert len(late) == 1 and (late[0]["label"] == batches[2]["label"]).all()
    parts = [list(stream.batches(32, 5, 2, share=(k, 2)))[1]["label"] for k in (0, 1)]
    assert (np.concatenate(parts) == batches[1]["label"]).all()


def test_a_stream_takes_any_sequence_and_a_transform():
    rows = [{"x": np.full(2, k), "name": f"sample {k}"} for k in range(10)]
    stream = data.Stream(rows, transform=lambda row: {"x": row["x"].astype(np.float32) / 2})
    (batch,) = list(stream.batches(10, 0, 0))
    assert sorted(batch["x"][:, 0].tolist()) == [k / 2 for k in range(10)] and set(batch) == {"x"}
