"""Names that end in a number, such as `grad_scale_10`: the spelling of published command lines."""

import re

_NUMBERED = re.compile(r"(?P<name>[a-z][a-z_]*?)_(?P<number>\d+\.?\d*|\.\d+)")


def split_number(token: str) -> tuple[str, float | None]:
    """Splits a name from the number at its end.

    Args:
      token: `name` or `name_number`, where the number is written without sign and exponent.

    Returns:
      The name and the number; None without one.

    Examples:
      >>> from sparse_lib._utils.numbered_names import split_number
      >>> split_number("grad_scale_.5"), split_number("zeros")
      (('grad_scale', 0.5), ('zeros', None))
    """
    match = _NUMBERED.fullmatch(token)
    return (match["name"], float(match["number"])) if match else (token, None)
