"""What mkdocs.yml cannot say: the pages that lie outside docs/, and that no page loads anything from elsewhere."""

import logging
import pathlib
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# By name in the checkout. They lie where code hosts show them, so the site takes them from there.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "licence.txt",
    "CITATION.cff": "citation.txt",
}
_LINK = re.compile(rf"\]\(((?:\.\./)*)({'|'.join(map(re.escape, PAGES))})\b")
_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
# An inner product such as <u, v>, which a browser takes for a tag and does not show.
_SWALLOWED = re.compile(r"<[a-zA-Z]\w*(?:\([^<>]*\))?(?: [-+] \w+)?,[^<>]*>")
# Its warnings count for `mkdocs build --strict`.
_log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside docs/, with their links as the site has them."""
    root = pathlib.Path(config.config_file_path).parent
    for name, page in PAGES.items():
        text = (root / name).read_text(encoding="utf8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_LINK.sub(lambda link: f"]({PAGES[link[2]]}", text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leads links from docs/ to files outside it to their pages: one `../` less, since these stand beside."""
    return _LINK.sub(lambda link: f"]({link[1].removeprefix('../')}{PAGES[link[2]]}", markdown)


def on_page_content(html: str, page: Page, **_: Any) -> None:
    """Warns of equations that would not be seen."""
    for equation in _SWALLOWED.findall(html):
        _log.warning("%s has %s, which no browser shows: put it into backticks.", page.file.src_uri, equation)


def on_post_build(config: MkDocsConfig) -> None:
    """Warns of everything that a page would load from another host."""
    for page in sorted(pathlib.Path(config.site_dir).rglob("*.html")):
        for address in _LOADED.findall(page.read_text(encoding="utf8")):
            _log.warning("%s loads %s: a page must open without a network.", page.name, address)
