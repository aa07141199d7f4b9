"""How long runs of a call take, learned from those that were made: `seconds = base + rows × per_row`."""

from __future__ import annotations

# A shared run may make its requests wait so long, or twice as long as a run of one row takes, if that is more.
_SHARED_RUN_SECONDS = 0.05
_FIRST_SHARED_ROWS, _MOST_SHARED_ROWS = 32, 512
# Until runs of different sizes have been seen, a further row is taken to cost a quarter of the first: an optimist finds
# out soon, where a pessimist would never try.
_HOPED_SHARE = 0.25
_DECAY = 0.9  # of what was learned, with each new run
_RUNS_TO_TRUST = 10


class Profile:
    """A weighted least-squares line through the runs, the newest of the most weight.

    Attributes:
        runs: How many it has seen.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.runs = 0
        self._weight = self._rows = self._seconds = self._rows_rows = self._rows_seconds = 0.0

    def note(self, rows: int, seconds: float) -> None:
        """Learns from a run. The first is left out: it prunes and optimises the graph."""
        self.runs += 1
        if self.runs == 1:
            return
        self._weight = _DECAY * self._weight + 1
        self._rows = _DECAY * self._rows + rows
        self._seconds = _DECAY * self._seconds + seconds
        self._rows_rows = _DECAY * self._rows_rows + rows * rows
        self._rows_seconds = _DECAY * self._rows_seconds + rows * seconds

    @property
    def is_trusted(self) -> bool:
        """Whether enough runs were seen to refuse requests on what they tell."""
        return self.runs > _RUNS_TO_TRUST

    def seconds(self, rows: int) -> float:
        """How long a run of so many rows is expected to take; 0.0 while nothing is known."""
        base, per_row = self._line()
        return base + rows * per_row

    def shared_rows(self) -> int:
        """How many rows should share a run: many where a further row costs little, few where it costs as a first."""
        if not self._weight:
            return _FIRST_SHARED_ROWS
        base, per_row = self._line()
        longest = max(_SHARED_RUN_SECONDS, 2 * (base + per_row))
        if per_row * _MOST_SHARED_ROWS <= longest - base:
            return _MOST_SHARED_ROWS
        return max(1, int((longest - base) / per_row))

    def _line(self) -> tuple[float, float]:
        """The two coefficients, none negative."""
        if not self._weight:
            return 0.0, 0.0
        rows, seconds = self._rows / self._weight, self._seconds / self._weight
        spread = self._rows_rows / self._weight - rows * rows
        if spread < 0.01 * max(1.0, rows * rows):  # all runs were of about one size
            first = seconds / (1 + _HOPED_SHARE * max(0.0, rows - 1))
            per_row = _HOPED_SHARE * first
        else:
            per_row = max(0.0, (self._rows_seconds / self._weight - rows * seconds) / spread)
        per_row = min(per_row, seconds / max(1.0, rows))
        return max(0.0, seconds - per_row * rows), per_row
