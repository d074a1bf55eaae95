"""The epoch sampler: without replacement, by rank, resumable."""

import numpy as np
import pytest

from lemon_sc.train.sampler import Sampler


def epochs(sampler, k):
    return [list(sampler.epoch()) for _ in range(k)]


def test_an_epoch_holds_no_index_twice_and_epochs_differ():
    sampler = Sampler(1000, epoch_length=300, batch=50, seed=3)
    first, second = (np.concatenate(e) for e in epochs(sampler, 2))
    assert len(first) == len(set(first.tolist())) == 300
    assert first.min() >= 0
    assert first.max() < 1000
    assert set(first.tolist()) != set(second.tolist())


def test_every_crop_is_as_likely_as_any_other():
    sampler = Sampler(20, epoch_length=5, batch=5)
    seen = np.bincount(np.concatenate([sampler.indices(e) for e in range(4000)]), minlength=20)
    assert abs(seen - 1000).max() < 5 * np.sqrt(1000 * 0.75)  # binomial, five standard deviations


@pytest.mark.parametrize(("n", "length", "batch"), [(7, 70, 5), (7, 40, 7), (10, 33, 3), (6, 36, 4)])
def test_a_long_epoch_chains_whole_permutations_and_no_batch_repeats(n, length, batch):
    drawn = Sampler(n, epoch_length=length, batch=batch).indices(0)
    for start in range(0, len(drawn) - n + 1, n):
        assert sorted(drawn[start : start + n]) == list(range(n))
    for start in range(0, len(drawn), batch):
        part = drawn[start : start + batch]
        assert len(set(part.tolist())) == len(part)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_together_see_what_one_process_sees(world):
    alone = list(Sampler(100, epoch_length=64, batch=8, seed=1).epoch())
    parts = [list(Sampler(100, epoch_length=64, batch=8, rank=r, world=world, seed=1).epoch()) for r in range(world)]
    for step, batch in enumerate(alone):
        np.testing.assert_array_equal(np.concatenate([p[step] for p in parts]), batch)


def test_it_goes_on_within_an_epoch_with_other_ranks():
    whole = [b.tolist() for e in epochs(Sampler(50, epoch_length=40, batch=8), 2) for b in e]
    first, seen = Sampler(50, epoch_length=40, batch=8), []
    for batch in first:
        seen.append(batch.tolist())
        if len(seen) == 7:
            break
    state = first.state_dict()
    assert (state["epoch"], state["step"]) == (1, 2)
    ranks = [Sampler(50, epoch_length=40, batch=8, rank=r, world=2) for r in range(2)]
    for sampler in ranks:
        sampler.load_state_dict(state)
    rest = [np.concatenate(both).tolist() for both in zip(*(s.epoch() for s in ranks), strict=True)]
    assert seen + rest == whole


def test_the_remainder_is_dropped():
    sampler = Sampler(50, epoch_length=30, batch=8)
    assert [len(b) for b in sampler.epoch()] == [8, 8, 8]
    assert len(sampler) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 4}, r"`batch` must be at most the number of crops, 4, got 6"),
        ({"epoch_length": 5}, r"`batch` must be at most `epoch_length`, 5, got 6"),
        ({"world": 4}, r"`batch` must be a multiple of the number of ranks, 4, got 6. 4 or 8 would do"),
        ({"world": 2, "rank": 2}, r"`rank` must lie in 0 to 1"),
        ({"batch": 0}, r"`batch` must be an int >= 1, got 0"),
        ({"seed": -1}, r"`seed` must be an int >= 0, got -1"),
    ],
)
def test_bad_settings_are_named(given, message):
    settings = {"n": 20, "epoch_length": 12, "batch": 6} | given
    with pytest.raises(ValueError, match=message):
        Sampler(settings.pop("n"), **settings)


def test_a_state_of_another_run_is_refused():
    state = Sampler(20, epoch_length=12, batch=6).state_dict()
    with pytest.raises(ValueError, match="written with `n` 20, this run has 21"):
        Sampler(21, epoch_length=12, batch=6).load_state_dict(state)
    with pytest.raises(ValueError, match=r"lacks \['step'\]"):
        Sampler(20, epoch_length=12, batch=6).load_state_dict({k: v for k, v in state.items() if k != "step"})
    with pytest.raises(ValueError, match="damaged: epoch 0, step 2 of 2"):
        Sampler(20, epoch_length=12, batch=6).load_state_dict(state | {"step": 2})
