"""Exceptions of damaged files."""

import struct
import tokenize
import zipfile
import zlib

# What the readers of NumPy, JSON and CSV raise for files that are cut, binary, nested, directories or of another type.
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, EOFError, RuntimeError, MemoryError, OverflowError),
    *(SyntaxError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
