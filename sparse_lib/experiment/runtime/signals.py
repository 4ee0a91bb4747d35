"""Graceful SIGINT and SIGTERM handling for resumable work."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from sparse_lib.experiment.runtime.errors import Interrupted


class Stop:
    """Flag that is set by SIGINT or SIGTERM.

    Attributes:
      signal: number of the signal; None before any.
    """

    def __init__(self) -> None:
        """Starts without a signal."""
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def raise_if_requested(self, done: int) -> None:
        """Raises an exception if a signal has arrived; call it where everything so far is saved.

        Args:
          done: finished steps, for the message (count).

        Raises:
          Interrupted: if a signal has arrived.
        """
        if self.signal is not None:
            raise Interrupted(self.signal, done)


@contextlib.contextmanager
def graceful_shutdown() -> Iterator[Stop]:
    """Defers SIGINT and SIGTERM: the work inside the context checks for them.

    Yields:
      The flag that they set.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        stop.signal = number

    with _handle(note):
        yield stop


@contextlib.contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt, even in a background job of a shell, which ignores SIGINT."""
    with _handle(signal.default_int_handler):
        yield


@contextlib.contextmanager
def _handle(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
