"""Check the built book: ``python docs/book/links.py build/book``.

Every link within the book leads to a file that is there, every fragment to an id; and no page,
style or picture is fetched from another host. Exits with a list of what is not so.
"""

import re
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {"img", "script", "link", "iframe", "source", "video", "audio", "object", "embed"}


class Page(HTMLParser):
    """A page's ids, its links, and what a browser fetches with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.fetched = {"", "top"}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Called for each element."""
        found = {key: value for key, value in attributes if value}
        self.ids |= {found[key] for key in ("id", "name") if key in found}
        sources = [part.split()[0] for part in found.get("srcset", "").split(",") if part]
        names = [found[key] for key in ("href", "src", "data", "poster") if key in found]
        (self.fetched if tag in FETCHED else self.links).extend(names + sources)
        self.fetched += styled(found.get("style", ""))


def styled(text: str) -> list[str]:
    """List the addresses in a style sheet."""
    found = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", text)
    return [address for pair in found for address in pair if address]


def is_elsewhere(address: str) -> bool:
    """Whether an address names another host."""
    return address.startswith("//") or urlsplit(address).scheme in {"http", "https", "ftp", "ws"}


def wrong(folder: Path) -> tuple[list[str], int]:
    """List what is wrong in a folder of pages, and count the links that were followed."""
    pages = {p.resolve(): Page(p.read_text(encoding="utf-8")) for p in folder.rglob("*.html")}
    problems, count = defaultdict(set), 0
    for sheet in folder.rglob("*.css"):
        for address in filter(is_elsewhere, styled(sheet.read_text(encoding="utf-8"))):
            problems[sheet].add(f"fetches {address}")
    for path, page in pages.items():
        for address in page.fetched + page.links:
            parts = urlsplit(address)
            if is_elsewhere(address) and address in page.fetched:
                problems[path].add(f"fetches {address}")
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                problems[path].add(f"no such file: {address}")
            elif target in pages and unquote(parts.fragment) not in pages[target].ids:
                problems[path].add(f"no such place: {address}")
    home = folder.resolve()
    names = {path: path.resolve().relative_to(home) for path in problems}
    return sorted(f"{names[p]}: {text}" for p, found in problems.items() for text in found), count


if __name__ == "__main__":
    found, followed = wrong(Path(sys.argv[1]))
    print(f"==> {followed} links within the book, {len(found)} broken or fetched from elsewhere")
    sys.exit("\n".join(found[:50]) or 0)
