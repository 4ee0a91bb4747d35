"""Builds the library of sparse products into the package; all else is in pyproject.toml."""

import importlib.util
from pathlib import Path
from types import ModuleType

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

NATIVE = Path("sparse_lib", "execution", "native")


def _load_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_native", Path(__file__).parent / NATIVE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildWithLibrary(build_py):
    """Copies the Python files, and compiles the C files to where they lie; without a compiler there is no library."""

    def run(self) -> None:
        """Builds."""
        super().run()
        builder = _load_builder()
        folder = builder.FOLDER if self.editable_mode else Path(self.build_lib, NATIVE)
        try:
            if not self.editable_mode or not builder.is_current():
                builder.build(folder / builder.LIBRARY.name)
        except builder.BuildError as error:
            self.warn(f"Sparse layers will run dense. {error}")
        else:
            self.distribution.has_library = True


class WheelOfLibrary(bdist_wheel):
    """A wheel with the library is for one platform, but for every Python: no Python header is compiled."""

    def get_tag(self) -> tuple[str, str, str]:
        """Returns Python, ABI and platform."""
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if self.distribution.has_library else (python, abi, platform)

    def run(self) -> None:
        """Builds the library first, since its presence decides on the kind of wheel."""
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_library
        super().run()


class DistributionWithLibrary(Distribution):
    """Knows whether the library was built."""

    has_library = False

    def has_ext_modules(self) -> bool:
        """Says whether the files belong to one platform."""
        return self.has_library


setup(distclass=DistributionWithLibrary, cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": WheelOfLibrary})
