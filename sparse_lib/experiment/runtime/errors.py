"""What ends a run with one line instead of a traceback."""


class RunError(Exception):
    """A failure whose message is the one line that the user needs."""


class SettingError(RunError):
    """A command line or configuration that cannot be meant, found before any work."""


class Interrupted(Exception):
    """The run was asked to stop; it has saved its state.

    Attributes:
      signal: number of the signal.
    """

    def __init__(self, signal_number: int, step: int) -> None:
        """Remembers why and where.

        Args:
          signal_number: SIGINT or SIGTERM.
          step: of the checkpoint (step).
        """
        super().__init__(f"Stopped at step {step}; the same command goes on from there.")
        self.signal = signal_number
