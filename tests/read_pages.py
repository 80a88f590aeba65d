"""What a page of a report consists of, read without a browser."""

import json
import re
from html.parser import HTMLParser
from typing import Any

ADDRESS = re.compile(r"https?://[^\s\"'<>)]+")
OWN_ADDRESSES = {"https://github.com/leeoniya/uPlot"}
"""Stands in a comment of the library that draws the curves."""


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html, self.tags, self.attributes, self.words = html, [], [], []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and not self.scripts[-1]:
            self.scripts[-1] = data
        elif data.strip():
            self.words.append(" ".join(data.split()))

    @property
    def charts(self) -> list[dict[str, Any]]:
        """What the page's script draws."""
        return json.loads(self.scripts[0])["charts"]

    def pictures(self) -> list[str]:
        """Sources of all pictures."""
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]

    def check_closed(self) -> None:
        """See that nothing asks for anything outside, and that nothing but the page's own scripts runs."""
        assert self.tags.count("script") == 2
        assert not [item for item in self.attributes if item[1].startswith("on")]
        assert all(
            v.startswith("data:") for _, name, v in self.attributes if name in ("src", "href", "srcset", "action")
        )
        assert not {"iframe", "object", "embed", "base", "audio", "video", "form"} & set(self.tags)
        assert "@import" not in self.html
        assert "url(" not in self.html
        assert set(ADDRESS.findall(self.html)) <= OWN_ADDRESSES
        policy = next(v for tag, name, v in self.attributes if tag == "meta" and v.startswith("default-src"))
        assert policy.startswith("default-src 'none'; img-src data:;")
