import logging

import pytest
import torch

from lemon_sc.embed import graphs
from lemon_sc.embed.graphs import STEADY, Replayed


class Tape:
    """Stands in for a recording: counts its replays, and gives `times` what was to be given."""

    def __init__(self, times=1.0):
        self.times, self.recorded, self.replays = times, [], 0

    def __call__(self, forward, x):
        self.recorded.append(len(x))

        def replay(x):
            self.replays += 1
            return forward(x) * self.times

        return replay


@pytest.fixture
def double():
    def forward(x):
        forward.calls += 1
        return x * 2.0

    forward.calls = 0
    return forward


def batch(n, seed=0):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) + 1


def through(passes, n, times=1):
    for k in range(times):
        x = batch(n, seed=k)
        assert torch.equal(passes(x), x * 2)


def test_what_keeps_coming_is_recorded_and_replayed(monkeypatch, double):
    tape = Tape()
    monkeypatch.setattr(graphs, "record", tape)
    passes = Replayed(double)
    through(passes, 8, times=STEADY - 1)
    assert not tape.recorded
    through(passes, 8)
    assert tape.recorded == [8]
    replays = tape.replays
    through(passes, 8, times=4)
    assert tape.replays == replays + 4
    through(passes, 5)  # the last batch, smaller
    assert tape.replays == replays + 4
    through(passes, 8)
    assert tape.replays == replays + 5
    assert tape.recorded == [8]


def test_batches_of_changing_size_are_not_recorded(monkeypatch, double):
    tape = Tape()
    monkeypatch.setattr(graphs, "record", tape)
    passes = Replayed(double)
    for n in (8, 8, 5, 8, 8, 5, 5, 8):
        through(passes, n)
    assert not tape.recorded


def test_a_pass_that_cannot_be_recorded_goes_on_as_it_is(monkeypatch, double, caplog):
    def refuse(forward, x):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "record", refuse)
    passes = Replayed(double)
    with caplog.at_level(logging.INFO, "lemon_sc"):
        through(passes, 8, times=3 * STEADY)
    assert double.calls == 3 * STEADY
    assert caplog.text.count("No CUDA graph on cpu") == 1


def test_a_recording_that_gives_something_else_is_thrown_away(monkeypatch, double, caplog):
    tape = Tape(times=1.1)
    monkeypatch.setattr(graphs, "record", tape)
    passes = Replayed(double)
    with caplog.at_level(logging.WARNING, "lemon_sc"):
        through(passes, 8, times=3 * STEADY)
    assert tape.replays == 1
    assert "does not repeat what it recorded" in caplog.text


def test_after_memory_ran_out_another_size_is_recorded(monkeypatch, double):
    tape = Tape()
    monkeypatch.setattr(graphs, "record", tape)
    passes = Replayed(double)
    through(passes, 8, times=STEADY)
    passes.drop()
    through(passes, 4, times=STEADY)
    assert tape.recorded == [8, 4]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_replays_what_it_computes():
    weight = torch.randn(64, 64, device="cuda")

    def forward(x):
        return torch.relu(x.float() @ weight)

    passes = Replayed(forward)
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
        for seed in range(STEADY + 3):
            x = torch.randint(0, 9, (32, 64), generator=torch.Generator().manual_seed(seed)).cuda()
            torch.testing.assert_close(passes(x).clone(), forward(x))
    assert not passes.gave_up
    assert passes._replay is not None
