"""Whether requests that wait should share a run, decided by what a row has cost either way."""

from __future__ import annotations

_WEIGHT = 0.2  # of the newest run in the moving averages
_GAIN = 0.95  # sharing must cost less than this part of running apart
_EXPLORE_EVERY = 50  # decisions; then the other way is tried, because models and loads change


class SharingChoice:
    """Compares shared runs with separate ones, both as they are while requests wait.

    A shared run saves what each run costs anew. It pays with padding, where texts differ in length, and with idle
    cores, where separate runs would use more of them. Which weighs more is measured.
    """

    def __init__(self) -> None:
        """Nothing is known yet: sharing is tried first."""
        self._costs: dict[bool, float] = {}
        self._decisions = 0

    def share(self) -> bool:
        """What to do this time."""
        self._decisions += 1
        explore = self._decisions % _EXPLORE_EVERY == 0
        if True not in self._costs:
            return True
        if False not in self._costs:
            return not explore
        return (self._costs[True] < _GAIN * self._costs[False]) != explore

    def note(self, shared: bool, rows: int, seconds: float, running: int) -> None:
        """Learns from a run that was made while others waited.

        Args:
            shared: Whether several requests shared it.
            rows: Its rows.
            seconds: How long it took.
            running: Runs that were under way when it began, itself among them: they shared the machine.
        """
        cost = seconds / max(1, rows) / max(1, running)
        known = self._costs.get(shared)
        self._costs[shared] = cost if known is None else known + _WEIGHT * (cost - known)
