"""The estimate of the time that a training still takes."""

import math
from itertools import pairwise

from melo_core.time_left import TimeLeft


def told(
    blocks: int, together: int, takes: int, seconds_each: float, target: float = 0.01
) -> list[tuple[float, float]]:
    """Simulate a training whose loss falls from 10 to the target in `takes` steps of 300; (left in truth, told)."""
    estimate, found, now = TimeLeft(blocks, 300, 0.01), [], 0.0
    steps = takes * (blocks // together)
    for done in range(0, blocks, together):
        begun = now
        for iteration in range(1, takes + 1):
            now += seconds_each
            left = (steps - done // together * takes - iteration) * seconds_each
            loss = 10 * (0.01 / 10) ** (iteration / takes)
            if iteration < takes:
                said = estimate.after(together, done, loss, iteration, now - begun, now)
            else:
                said = estimate.part_done(together, done + together, now - begun, now)
            if said is not None:
                found.append((left, said))
    return found


def test_blocks_that_stop_long_before_their_last_step_are_told_of_without_a_jump():
    for blocks, together, takes, seconds_each in ((64, 64, 40, 4.0), (64, 16, 40, 0.5), (10_000, 100, 60, 0.1)):
        pairs = told(blocks, together, takes, seconds_each)
        shown = [said for _, said in pairs]
        assert all(abs(said - left) <= max(0.35 * left, 3 * seconds_each) for left, said in pairs)
        assert all(later > earlier / 2 for earlier, later in pairwise(shown) if earlier > 30)
        assert shown[-1] == 0


def test_without_a_target_all_steps_are_taken_and_told_from_the_first_one():
    estimate = TimeLeft(1, 300, 0.0)
    assert estimate.after(1, 0, 2.0, 1, 2.0, 2.0) == 598.0


def test_a_sudden_fall_of_the_loss_moves_the_estimate_gradually():
    estimate, now, shown = TimeLeft(64, 300, 0.01), 0.0, []
    for iteration in range(1, 100):
        now += 1.0
        loss = 5.0 if iteration < 50 else 5.0 * 0.5 ** (iteration - 49)
        left = estimate.after(64, 0, loss, iteration, now, now)
        shown += [] if left is None else [left]
    assert shown[0] > 200
    assert all(later > earlier / 2 for earlier, later in pairwise(shown) if earlier > 10)


def test_losses_that_are_no_numbers_give_the_most_that_it_can_take():
    estimate = TimeLeft(1, 300, 0.01)
    for iteration in range(1, 10):
        left = estimate.after(
            1, 0, math.nan if iteration % 2 else math.inf, iteration, float(iteration), float(iteration)
        )
    assert 250 < left < 300
