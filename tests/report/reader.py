"""Reads a page as a browser would, as far as the tests need it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}
OUTSIDE = ("href", "src", "xlink:href", "action", "data", "srcset", "poster")


class Reader(HTMLParser):
    """Collects tags with their attributes and texts; complains about tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.setdefault(tag, []).append("")
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)
        for tag in dict.fromkeys(self.open):
            self.inside[tag][-1] += data

    @property
    def text(self) -> str:
        """All that is shown, spaces (no-break ones too) made one."""
        return " ".join(" ".join(self.texts).split())

    def within(self, tag: str) -> list[str]:
        """The text inside each such tag, in order; of tags that hold their like, the innermost."""
        return [" ".join(text.split()) for text in self.inside.get(tag, [])]

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of each such tag."""
        return [attrs for name, attrs in self.tags if name == tag]
