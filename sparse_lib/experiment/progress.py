"""Progress with the time left: one live line on a terminal, plain log lines elsewhere."""

import sys
import time

from absl import logging

# Between plain log lines (seconds): a log file of a day's run stays readable.
_QUIET_SECONDS = 10.0


def duration(seconds: float) -> str:
    """A length of time as people say it.

    Args:
      seconds: at least 0.

    Returns:
      Such as `45 s`, `3 min 20 s`, `2 h 5 min`.
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """Tells how far a job of a known number of steps is."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        """Starts the clock.

        Args:
          title: what is being done.
          total: steps of the whole job (count).
          done: steps that an earlier process did (count).
        """
        self._title, self._total, self._first, self._done = title, total, done, done
        self._started = time.monotonic()
        self._last_line = self._started
        self._live = sys.stderr.isatty()

    def update(self, done: int, note: str = "") -> None:
        """Reports.

        Args:
          done: steps done so far (count).
          note: what else is worth a word, such as the last accuracy.
        """
        self._done = done
        now = time.monotonic()
        if not self._live and now - self._last_line < _QUIET_SECONDS and done < self._total:
            return
        self._last_line = now
        line = self._line(now, note)
        if self._live:
            sys.stderr.write(f"\r\x1b[K{line}")
            if done >= self._total:
                sys.stderr.write("\n")
            sys.stderr.flush()
        else:
            logging.info("%s", line)

    def _line(self, now: float, note: str) -> str:
        worked, elapsed = self._done - self._first, now - self._started
        line = f"{self._title}: step {self._done:,} of {self._total:,}"
        if worked and elapsed > 0:
            rate = worked / elapsed
            line += f", {rate:.0f} steps/s" if rate >= 10 else f", {rate:.2f} steps/s"
            if self._done < self._total:
                line += f", {duration((self._total - self._done) / rate)} left"
        return f"{line}, {note}" if note else line

    def close(self) -> None:
        """Ends the live line if the job stopped early."""
        if self._live and self._done < self._total:
            sys.stderr.write("\n")
