"""Compiles the C sources of this folder: `python -m sparse_lib.execution.native.build`.

Nothing but the standard library is imported, so that setup.py can use it, too. The compiler is `$CC`, or the first of
cc, gcc and clang, or the PyPI package `ziglang`. Symbols of TensorFlow are found when TensorFlow loads the library.
"""

import contextlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = FOLDER / "sparse_products.so"
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-s")
# The glibc that zig links against: that of manylinux2014, so the binary runs on every Linux of the last ten years.
ZIG_GLIBC = "2.17"
ZIG = "ziglang==0.17.1"


class BuildError(Exception):
    """The library cannot be built here; the message is one sentence."""


def find_compiler() -> list[str]:
    """Returns the start of a command that compiles C.

    Raises:
      BuildError: there is no compiler.
    """
    if named := os.environ.get("CC"):
        return shlex.split(named)
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu.{ZIG_GLIBC}"]
    raise BuildError("There is no C compiler: install gcc or clang, or `pip install ziglang`.")


def install_compiler() -> None:
    """Installs the C compiler of PyPI into this environment, if it is a virtual one and has none."""
    with contextlib.suppress(BuildError):
        find_compiler()
        return
    if sys.prefix != sys.base_prefix:
        command = [sys.executable, "-m", "pip", "--quiet", "--quiet", "install", "--no-input", ZIG]
        subprocess.run(command, check=False, capture_output=True)
        importlib.invalidate_caches()


def is_current() -> bool:
    """Says whether the library is newer than everything that it is made of."""
    sources = [*FOLDER.glob("*.[ch]"), Path(__file__)]
    return LIBRARY.exists() and LIBRARY.stat().st_mtime >= max(path.stat().st_mtime for path in sources)


def build(library: Path = LIBRARY) -> None:
    """Compiles the library under a temporary name and renames it.

    Raises:
      BuildError: there is no compiler, or it fails.
    """
    if not sys.platform.startswith("linux"):
        raise BuildError("The sparse products are built on Linux only.")
    sources = [str(path) for path in sorted(FOLDER.glob("*.c"))]
    library.parent.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_name(f"{library.name}.{os.getpid()}")
    command = [*find_compiler(), *FLAGS, *sources, "-o", str(unfinished)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        unfinished.replace(library)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}.") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{shlex.join(command)} failed:\n{error.stderr}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def main() -> None:
    """Builds the library unless it is there and current; where that cannot be, layers run dense, which is no error."""
    if is_current():
        return
    if sys.argv[1:] == ["--install-compiler"]:
        install_compiler()
    try:
        build()
        sys.stdout.write(f"Built {LIBRARY.name}: sparse layers run on their active weights.\n")
    except BuildError as error:
        sys.stdout.write(f"Sparse layers run dense here. {error}\n")


if __name__ == "__main__":
    main()
