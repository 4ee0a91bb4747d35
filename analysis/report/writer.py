"""The files of a report: figures, tables of data, and a list of both; each whole or not at all."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.report import page
from sparse_lib.experiment.storage import files

MANIFEST = "report.json"


class Sheets:
    """Writes figures and data beside a page, and notes what could not be drawn.

    Attributes:
      missing: one sentence for each figure that there is no data for; whoever shows them empties it.
    """

    def __init__(self, out: pathlib.Path) -> None:
        """Makes the directory.

        Args:
          out: of the page.

        Raises:
          RunError: if it cannot be made.
        """
        self.out, self.missing = out, list[str]()
        self._written: list[str] = []
        with files.translate_os_error(out):
            out.mkdir(parents=True, exist_ok=True)

    def figure(self, section: page.Section, name: str, caption: str, draw: Callable[[], Figure]) -> None:
        """Draws a figure into a section, and its files into figures/.

        Args:
          section: of the page.
          name: path below figures/, without an ending.
          caption: of the figure.
          draw: makes it; what raises `NoData` becomes a line in `missing`.
        """
        try:
            drawn = draw()
        except style.NoData as lack:
            self.missing.append(str(lack))
            return
        paths = style.save(drawn, self._path(f"figures/{name}"))
        links = [path.relative_to(self.out).as_posix() for path in paths]
        self._written += links
        svg = next(path for path in paths if path.suffix == ".svg").read_text(encoding="utf8")
        section.add(page.figure(svg, caption, name.replace("/", "-").replace(".", "-"), links))

    def data(self, name: str, frame: pd.DataFrame) -> None:
        """Writes a frame to data/ unless it is empty.

        Args:
          name: path below data/, without an ending.
          frame: to write as CSV.
        """
        if frame.empty:
            return
        path = self._path(f"data/{name}.csv")
        with files.atomic_path(path) as temporary:
            frame.to_csv(temporary, index=frame.index.name is not None)
        self._written.append(path.relative_to(self.out).as_posix())

    def finish(self, text: str, about: Mapping[str, Any]) -> pathlib.Path:
        """Writes the page, and removes what an earlier report has written here and this one has not.

        Args:
          text: HTML.
          about: joins the list of files in report.json.

        Returns:
          The page.
        """
        target = self.out / "index.html"
        files.write_text(target, text)
        manifest = self.out / MANIFEST
        try:
            before = json.loads(manifest.read_text(encoding="utf8")).get("files", [])
        except (OSError, ValueError):
            before = []
        for name in set(before) - set(self._written):
            stale = (self.out / name).resolve()
            if stale.is_relative_to(self.out.resolve()):
                stale.unlink(missing_ok=True)
        files.write_text(manifest, json.dumps({**about, "files": sorted(self._written)}, indent=2) + "\n")
        return target

    def _path(self, name: str) -> pathlib.Path:
        path = self.out / name
        with files.translate_os_error(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path
