"""The index of the error gallery: a table for readers who search a page for their message.

    python -m maintainers.gallery

An entry of the gallery is a prose cell that begins with a `### ` heading, the message; the first
sentence below it says what the message means. The index is written between two comments,
`<!-- gallery:begin -->` and `<!-- gallery:end -->`, into the README of the notebooks and that of the
repository.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nbformat import NotebookNode

from blaze_utils.files import write_atomically
from maintainers.notebooks import NOTEBOOKS, NotebookError, ROOT, read
from maintainers.pages import PageError, with_part

GALLERY = NOTEBOOKS / "08_error_gallery.ipynb"
PAGES = (NOTEBOOKS / "README.md", ROOT / "README.md")


class GalleryError(Exception):
    """A gallery that no index can be made from; the message names it."""


@dataclass(frozen=True)
class Entry:
    """One entry of the gallery.

    Attributes:
        section: the text of the `## ` heading above it.
        heading: what stands behind `### `, as Markdown.
        meaning: the first sentence of its prose, without links.
    """

    section: str
    heading: str
    meaning: str

    @property
    def anchor(self) -> str:
        """The id that nbconvert gives the heading; Jupyter's is the same, not percent-encoded."""
        return quote(self.heading.replace("`", "").replace(" ", "-"), safe="?/:@!$&'()*+,;=")


def entries(notebook: NotebookNode) -> list[Entry]:
    """The entries of a gallery in their order.

    Raises:
        GalleryError: there are none, one has no prose below its heading, or two share a heading.
    """
    found, section = [], ""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        if cell.source.startswith("### "):
            found.append(_entry(section, cell.source))
        else:
            sections = re.findall(r"^## (.+)", cell.source, flags=re.MULTILINE)
            section = sections[-1].strip() if sections else section
    headings = [entry.heading for entry in found]
    for heading in headings:
        if headings.count(heading) > 1:
            raise GalleryError(f"{heading}: {headings.count(heading)} entries have this heading")
    if not found:
        raise GalleryError("no entries: expected prose cells that begin with '### '")
    return found


def _entry(section: str, source: str) -> Entry:
    heading, _, prose = source.partition("\n")
    sentence = re.split(r"(?<=[.!?])\s", " ".join(prose.split()))[0]
    if not sentence:
        raise GalleryError(f"{heading}: expected prose below this heading")
    return Entry(section, heading[4:].strip(), re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", sentence))


def index(found: list[Entry], target: str) -> str:
    """The index as Markdown: a table for each section.

    Args:
        found: the entries, sections together.
        target: the notebook, relative to the page that gets the index.
    """
    lines: list[str] = []
    # In angle brackets, a link may hold the round ones of a message.
    for entry in found:
        if f"**{entry.section}**" not in lines:
            first = "mistake" if entry.section.startswith("Silent") else "message"
            lines += ["", f"**{entry.section}**", ""]
            lines += [f"| {first} | what it means | where |", "| --- | --- | --- |"]
        message, meaning = (text.replace("|", r"\|") for text in (entry.heading, entry.meaning))
        lines.append(f"| {message} | {meaning} | [entry](<{target}#{entry.anchor}>) |")
    return "\n".join(lines[1:])


def with_index(text: str, found: list[Entry], page: Path) -> str:
    """The text of a page with the index between its two comments.

    Raises:
        PageError: the page does not have both comments, once each, in this order.
    """
    target = os.path.relpath(GALLERY, page.parent).replace(os.sep, "/")
    return with_part(text, "gallery", index(found, target), page)


def main() -> int | str:
    """Write the index into both pages; returns the exit status, or a message for stderr."""
    try:
        found = entries(read(GALLERY))
        for page in PAGES:
            text = with_index(page.read_text(encoding="utf-8"), found, page)
            write_atomically(page, text.encode("utf-8"))
            print(f"==> {page.relative_to(ROOT)}: {len(found)} entries")
    except (GalleryError, NotebookError, PageError, OSError) as error:
        return f"==> {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
