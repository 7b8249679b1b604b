"""Signals while a training walks: what is saved, and what goes on from there."""

import signal

import numpy as np
import pytest
from support.training import equal, fit, linear

from neuralflow import training
from neuralflow.training import loop
from neuralflow.training.interrupts import HeldBack


@pytest.fixture(autouse=True)
def interrupting():
    """SIGINT raises KeyboardInterrupt, whatever the process that started the tests has set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def signalled(monkeypatch):
    """Makes trainings receive a signal after so many looks at their state."""

    def after(count, number):
        seen = []

        def look(state, epoch, log, check=loop._check_finite):
            seen.append(epoch)
            if len(seen) == count:
                signal.raise_signal(number)
            return check(state, epoch, log)

        monkeypatch.setattr(loop, "_check_finite", look)

    return after


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_an_interrupted_training_saves_the_step_that_it_reached(tmp_path, signalled, count):
    # With save_every=1 the state is looked at after every one of the five steps of an epoch.
    steps, model, whole = {"save_every": 1, "keep": 1}, linear(), linear()
    fit(whole, epochs=2)
    signalled(count, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=2, folder=tmp_path, **steps)
    reached = linear(5)
    assert training.restore(tmp_path, reached) == count and equal(reached, model)
    rows = fit(model, epochs=2, folder=tmp_path, resume=True, **steps).history.rows
    assert equal(model, whole) and [row["epoch"] for row in rows] == [1, 2]


def test_a_handler_that_returns_lets_the_training_go_on(tmp_path, signalled):
    met = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: met.append(number))
    try:
        signalled(2, signal.SIGTERM)
        model, whole = linear(), linear()
        fit(model, folder=tmp_path, epochs=1, save_every=1)
        fit(whole, epochs=1)
        assert met == [signal.SIGTERM] and equal(model, whole)
        assert training.restore(tmp_path, linear()) == 5
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_signal_does_not_wait_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with HeldBack() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.pending == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signals.pending is None
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), HeldBack():
        signal.raise_signal(signal.SIGINT)  # it comes through at the end
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_that_the_caller_ignores_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldBack() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.pending is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_rows_of_an_interrupted_epoch_are_counted_once(tmp_path, signalled):
    signalled(5, signal.SIGINT)  # the last step of an epoch: the epoch is finished first
    with pytest.raises(KeyboardInterrupt):
        fit(linear(), epochs=3, folder=tmp_path, save_every=1)
    fitted = fit(linear(), epochs=3, folder=tmp_path, resume=True)
    assert np.array_equal(fitted.history["epoch"], [1, 2, 3])
