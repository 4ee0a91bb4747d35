"""Files of a report: figures, data, page and manifest, each written atomically."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.report import charts, page
from sparse_lib.experiment.storage import files

MANIFEST = "report.json"


class ReportWriter:
    """Writes figures and data beside a page, and collects reasons for missing figures.

    Attributes:
      missing: one sentence per figure without data; cleared by whoever shows them.
    """

    def __init__(self, out: pathlib.Path) -> None:
        """Creates the directory.

        Args:
          out: directory of the page.

        Raises:
          RunError: if it cannot be created.
        """
        self.out, self.missing = out, list[str]()
        self._written: list[str] = []
        with files.translate_os_error(out):
            out.mkdir(parents=True, exist_ok=True)

    def add_figure(
        self,
        section: page.Section,
        name: str,
        caption: str,
        draw: Callable[[], Figure],
        live: Sequence[charts.Chart] = (),
    ) -> None:
        """Adds a figure to a section, and writes its files to figures/.

        Args:
          section: of the page.
          name: path below figures/, without a suffix.
          caption: of the figure.
          draw: returns the figure; the message of a `NoData` is added to `missing`.
          live: interactive charts of the same data.
        """
        try:
            drawn = draw()
        except style.NoData as error:
            self.missing.append(str(error))
            return
        paths = style.save(drawn, self._path(f"figures/{name}"))
        links = [path.relative_to(self.out).as_posix() for path in paths]
        self._written += links
        svg = next(path for path in paths if path.suffix == ".svg").read_text(encoding="utf8")
        section.add(page.figure(svg, caption, page.make_slug(name), links, live))

    def write_data(self, name: str, frame: pd.DataFrame) -> None:
        """Writes a frame to data/ unless it is empty.

        Args:
          name: path below data/, without a suffix.
          frame: rows to write as CSV.
        """
        if frame.empty:
            return
        path = self._path(f"data/{name}.csv")
        with files.atomic_path(path) as temporary:
            frame.to_csv(temporary, index=frame.index.name is not None)
        self._written.append(path.relative_to(self.out).as_posix())

    def finish(self, text: str, about: Mapping[str, Any]) -> pathlib.Path:
        """Writes the page and the manifest, and removes files that only an earlier report wrote.

        Args:
          text: HTML of the page.
          about: further entries of report.json.

        Returns:
          Path of the page.
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
