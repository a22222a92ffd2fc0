"""The time that a training will still take, estimated from the speed and from how the loss falls."""

import math
from dataclasses import dataclass, field

FIRST_TOLD = 5  # iterations; before that, neither speed nor loss says much
SETTLING_SECONDS = 6.0  # after this long, an estimate has moved most of the way to a new one


@dataclass
class TimeLeft:
    """Estimates the seconds left of a training of `total` blocks, some of them together at a time.

    A block stops when its loss is below the target, mostly long before its last iteration, so the highest loss is
    extrapolated: it falls about exponentially. What is told follows new estimates only gradually.
    """

    total: int
    iterations: int  # the most of a block
    loss_target: float
    _first_loss: float = math.nan
    _taken: list[float] = field(default_factory=list)  # seconds per block, of the parts that are done
    _told: float | None = None
    _told_at: float = 0.0

    def after(self, part: int, done: int, loss: float, iteration: int, seconds: float, now: float) -> float | None:
        """Return the seconds left; None while that cannot be told.

        part: how many blocks are trained together now. done: how many were, before. loss: the highest of those that are
        not finished. seconds: since this part began. now: any clock's seconds.
        """
        if iteration == 1:
            self._first_loss = loss
        needed = self._needed(loss, iteration)
        if needed is None:
            return self._told
        own = seconds / iteration * needed
        each = sum(self._taken) / len(self._taken) if self._taken else own / part
        estimate = own - seconds + each * (self.total - done - part)
        if self._told is not None:
            passed = now - self._told_at
            before = max(self._told - passed, 0.0)
            estimate = before + (estimate - before) * (1 - math.exp(-passed / SETTLING_SECONDS))
        self._told, self._told_at = estimate, now
        return estimate

    def part_done(self, part: int, done: int, seconds: float, now: float) -> float | None:
        """Note that a part is done, `done` blocks with it; return the seconds left."""
        self._taken.append(seconds / part)
        if done == self.total:
            return 0.0
        self._told, self._told_at = sum(self._taken) / len(self._taken) * (self.total - done), now
        return self._told

    def _needed(self, loss: float, iteration: int) -> float | None:
        """Return how many iterations the slowest of these blocks will take in all."""
        if self.loss_target <= 0:
            return self.iterations
        if iteration < FIRST_TOLD:
            return None
        fallen = math.log(self._first_loss / loss) if 0 < loss < self._first_loss < math.inf else 0.0
        if not fallen:
            return self.iterations
        left = max(math.log(loss / self.loss_target), 0.0) / fallen * (iteration - 1)
        return min(self.iterations, iteration + left)
