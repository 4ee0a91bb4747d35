"""The exception for invalid input, whose message says what to do."""


class InputError(ValueError):
    """Invalid input: an argument, a file or a model that this library cannot work with.

    The message is one sentence for the user. Command lines print it without a traceback; any other `ValueError` is a
    bug, and its traceback is shown.
    """
