"""The outline of an HTML page."""

import html.parser

VOID = {"meta", "br", "link", "img", "hr", "input", "line", "rect", "circle", "path", "use"}


class Outline(html.parser.HTMLParser):
    """Checks that tags are balanced and collects ids, links, text, scripts, and the last attributes of each tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.scripts: dict[str, str] = {}
        self.attributes: dict[str, dict[str, str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.attributes[tag] = values
        self.links += [values["href"]] if tag == "a" else []
        self.sources += [values[k] for k in ("src", "srcset") if k in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            name = self.attributes["script"].get("id", f"script {len(self.scripts)}")
            self.scripts[name] = self.scripts.get(name, "") + data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)
