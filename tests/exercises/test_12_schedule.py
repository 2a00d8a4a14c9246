"""Exercise 12.2, level, then down: the rate falls in the last fifth alone."""

from itertools import pairwise

import pytest

from minigpt import TrainConfig, learning_rate


def rates(**changes) -> list[float]:
    """The rates of all steps: from 1 down to 0.1, 10 steps of warm-up."""
    values = (
        dict(max_steps=100, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.1)
        | changes
    )
    config = TrainConfig(**values)
    return [learning_rate(step, config) for step in range(config.max_steps)]


def test_it_warms_up_and_stays_level_until_the_last_fifth():
    found = rates()
    assert found[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert found[10:80] == [1.0] * 70


def test_it_falls_on_a_straight_line_to_the_last_step():
    found = rates()
    falls = [a - b for a, b in pairwise(found[79:])]
    assert falls == pytest.approx([0.9 / 20] * 20)
    assert found[99] == pytest.approx(0.1)


def test_a_longer_run_begins_like_a_shorter_one():
    assert rates(max_steps=300)[:80] == rates(max_steps=100)[:80]


def test_it_stays_low_beyond_the_end_and_bears_the_shortest_runs():
    config = TrainConfig(max_steps=100, warmup_steps=10)
    assert learning_rate(500, config) == pytest.approx(config.min_learning_rate)
    assert len(rates(max_steps=3, warmup_steps=0)) == 3
