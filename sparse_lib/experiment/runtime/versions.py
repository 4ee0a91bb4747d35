"""Versions of the software that a result depends on."""

import platform
from importlib import metadata


def versions() -> dict[str, str]:
    """Versions of Python, TensorFlow, Keras and NumPy, by name."""
    packages = ("tensorflow", "keras", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
