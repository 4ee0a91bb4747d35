"""Being asked to stop while work goes on that can be taken up again."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from sparse_lib.experiment.runtime.errors import Interrupted


class Stop:
    """Whether SIGINT or SIGTERM has come.

    Attributes:
      signal: its number, None as long as there was none.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def raise_if_requested(self, done: int) -> None:
        """Ends the work if it was asked to stop; everything so far is saved.

        Args:
          done: finished steps, for the message (count).

        Raises:
          Interrupted: if a signal has come.
        """
        if self.signal is not None:
            raise Interrupted(self.signal, done)


@contextlib.contextmanager
def graceful_shutdown() -> Iterator[Stop]:
    """Lets SIGINT and SIGTERM wait until the work inside the context looks for them.

    Yields:
      What notes them.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        stop.signal = number

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def raise_keyboard_interrupt() -> None:
    """Makes SIGINT and SIGTERM end the work as Ctrl-C does, even in a shell's background job, which ignores SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
