"""Write the index of the error gallery into ``notebooks/README.md``, for readers with a message.

    python -m maintainers.tables

An entry of the gallery is a prose cell that begins with a ``### `` heading, the message; the first
sentence below it says what the message means. A table stands between two comments that stay:
``<!-- gallery:begin -->`` and ``<!-- gallery:end -->``.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from maintainers.notebooks import NOTEBOOKS, read  # noqa: E402

GALLERY = NOTEBOOKS / "08_error_gallery.ipynb"
INDEX = NOTEBOOKS / "README.md"


class Entry(NamedTuple):
    """One entry: the ``## `` heading above it, its ``### `` heading, and its first sentence."""

    section: str
    heading: str
    meaning: str

    @property
    def anchor(self) -> str:
        """The id that nbconvert gives the heading; Jupyter's is the same, not percent-encoded."""
        return quote(self.heading.replace("`", "").replace(" ", "-"), safe="?/:@!$&'()*+,;=")


def entries(notebook: NotebookNode) -> list[Entry]:
    """List the entries of a gallery in their order.

    Raises:
        ValueError: an entry has no prose below its heading, or two share a heading.
    """
    found: dict[str, Entry] = {}
    section = ""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        if not cell.source.startswith("### "):
            section = ([section] + re.findall(r"^## (.+)", cell.source, flags=re.MULTILINE))[-1]
            continue
        heading, _, prose = cell.source.partition("\n")
        meaning = re.split(r"(?<=[.!?])\s", " ".join(prose.split()))[0]
        if not meaning or heading in found:
            raise ValueError(f"{heading}: expected prose below it, and one entry of this name")
        meaning = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", meaning)  # a link's text alone
        found[heading] = Entry(section.strip(), heading[4:].strip(), meaning)
    return list(found.values())


def index(found: list[Entry]) -> str:
    """Write the index as Markdown: a table for each section."""
    lines: list[str] = []
    for entry in found:
        if f"**{entry.section}**" not in lines:
            first = "mistake" if entry.section.startswith("Silent") else "message"
            lines += ["", f"**{entry.section}**", ""]
            lines += [f"| {first} | what it means | where |", "| --- | --- | --- |"]
        message, meaning = (text.replace("|", r"\|") for text in (entry.heading, entry.meaning))
        # In angle brackets, a link may hold the round ones of a message.
        lines.append(f"| {message} | {meaning} | [entry](<{GALLERY.name}#{entry.anchor}>) |")
    return "\n".join(lines[1:])


def with_part(text: str, name: str, content: str) -> str:
    """Put ``content`` between the two comments of a page's part ``name``.

    Raises:
        ValueError: the page does not have both comments, once each.
    """
    pattern = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
    text, count = re.subn(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"expected <!-- {name}:begin --> and <!-- {name}:end -->, once each")
    return text


def main() -> None:
    """Write the index into its page."""
    text = with_part(INDEX.read_text(encoding="utf-8"), "gallery", index(entries(read(GALLERY))))
    INDEX.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
