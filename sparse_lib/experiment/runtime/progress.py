"""Progress with the remaining time: a bar on a terminal, plain log lines elsewhere."""

import sys
import time
from typing import Any

from absl import logging
from tqdm import tqdm

# Time between plain log lines (seconds): the log of a day's run stays readable.
_QUIET_SECONDS = 10.0


def duration(seconds: float) -> str:
    """Formats a duration.

    Args:
      seconds: the duration, at least 0 (seconds).

    Returns:
      Text such as `45 s`, `3 min 20 s`, `2 h 5 min`.
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """Progress of a job of known length."""

    def __init__(self, title: str, total: float, done: float = 0, *, unit: str | None = "step") -> None:
        """Starts the clock.

        Args:
          title: of the job.
          total: units of the whole job.
          done: units completed by an earlier process.
          unit: name of a unit, in the singular; None reports percent of the total.
        """
        self._title, self._total, self._first, self._done, self._unit = title, total, done, done, unit
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar = self._make_bar() if sys.stderr.isatty() else None

    def _make_bar(self) -> Any:
        counts = "" if self._unit is None else f" {{n:,}}/{{total:,}} {self._unit}s, {{rate_noinv_fmt}},"
        return tqdm(
            total=self._total,
            initial=self._done,
            desc=self._title,
            unit=f" {self._unit}s",
            bar_format=f"{{desc}}: {{percentage:3.0f}}%|{{bar:20}}|{counts} {{remaining}} left{{postfix}}",
            file=sys.stderr,
            dynamic_ncols=True,
            # A job may report again and again that nothing is new, and its time left falls meanwhile.
            miniters=0,
        )

    def update(self, done: float, note: str = "") -> None:
        """Reports the units completed so far.

        Args:
          done: completed units.
          note: appended to the line, such as the last accuracy.
        """
        self._done = done
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
            if done >= self._total:
                self._bar.close()
            return
        now = time.monotonic()
        if now - self._last_line < _QUIET_SECONDS and done < self._total:
            return
        self._last_line = now
        logging.info("%s", self._format_line(now, note))

    def advance(self, count: float) -> None:
        """Reports further completed units.

        Args:
          count: number of units since the last report.
        """
        self.update(self._done + count)

    def say(self, line: str) -> None:
        """Writes a line about a part of the job, above the bar if there is one."""
        if self._bar is None:
            logging.info("%s", line)
        else:
            self._bar.write(line, file=sys.stderr)

    def _format_line(self, now: float, note: str) -> str:
        worked, elapsed = self._done - self._first, now - self._started
        if self._unit is None:
            line = f"{self._title}: {self._done / self._total:.0%}"
        else:
            line = f"{self._title}: {self._unit} {self._done:,} of {self._total:,}"
        if worked and elapsed > 0:
            rate = worked / elapsed
            if self._unit is not None:
                line += f", {rate:.{0 if rate >= 10 else 2}f} {self._unit}s/s"
            if self._done < self._total:
                line += f", {duration((self._total - self._done) / rate)} left"
        return f"{line}, {note}" if note else line

    def close(self) -> None:
        """Ends the bar of a job that stopped early."""
        if self._bar is not None:
            self._bar.close()
