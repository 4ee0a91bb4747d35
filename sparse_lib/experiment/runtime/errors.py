"""Exceptions that end a command with one line instead of a traceback."""


class RunError(Exception):
    """Failure whose message is one line for the user."""


class SettingError(RunError):
    """Invalid command line or configuration, detected before any work starts."""


class Interrupted(Exception):
    """SIGINT or SIGTERM stopped the work, after its state was saved.

    Attributes:
      signal: number of the signal.
    """

    def __init__(self, signal_number: int, step: int) -> None:
        """Builds the message.

        Args:
          signal_number: SIGINT or SIGTERM.
          step: of the checkpoint (step).
        """
        super().__init__(f"Stopped at step {step}; the same command goes on from there.")
        self.signal = signal_number
