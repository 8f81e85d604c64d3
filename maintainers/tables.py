"""Write the index of the error gallery into ``notebooks/README.md``: make a message findable.

An entry stands once, in notebook 08: a cell with a ``### `` heading, the message; the cause; other
wordings behind ``Also: ``; ``*Fix:*`` and a block of code. The cells below raise the message; what
they have stored is in the index in full, between two comments that stay. No arguments.
"""

import re
from typing import NamedTuple
from urllib.parse import quote

from nbformat import NotebookNode

from maintainers.notebooks import NOTEBOOKS, read

GALLERY = NOTEBOOKS / "08_error_gallery.ipynb"
INDEX = NOTEBOOKS / "README.md"

SAID = re.compile(r"^\w*(?:Error|Warning): (.+?)(?: \.\.\.)?$", re.MULTILINE)
ENTRY = r"### ([^\n]+)\n\n(.+?)\n\n(?:Also: (.+?)\.\n\n)?\*Fix:\* (.+?)\n\n```python\n(.+?)\n```\n"


class Entry(NamedTuple):
    """One entry; ``said`` are the errors and warnings that its cells have stored, without class."""

    section: str
    heading: str
    cause: str
    also: str
    fix: str
    code: str
    said: list[str]

    @property
    def anchor(self) -> str:
        """The id that nbconvert gives the heading; Jupyter's is the same, not percent-encoded."""
        return quote(self.heading.replace("`", "").replace(" ", "-"), safe="?/:@!$&'()*+,;=")

    def row(self) -> str:
        """The entry as a row of the index; of the code only what needs no indentation."""
        lines = [] if "\n " in self.code else filter(None, self.code.split("\n"))
        said = (text for text in dict.fromkeys(self.said) if f"`{text}`" not in self.heading)
        names = [self.heading, self.also.replace("; ", "<br>"), *(f"`` {text} ``" for text in said)]
        fix = "<br>".join([self.fix, *(f"`` {line} ``" for line in lines)])
        cells = (t.replace("|", r"\|") for t in ("<br>".join(filter(None, names)), self.cause, fix))
        # In angle brackets, a link may hold the round ones of a message.
        return f"| {' | '.join(cells)} | [cell](<{GALLERY.name}#{self.anchor}>) |"


def entries(notebook: NotebookNode) -> list[Entry]:
    """List the entries; ValueError if one is not of the form above, or two share a heading."""
    found: dict[str, Entry] = {}
    section, said = "", []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            said += SAID.findall("\n".join(output.get("text", "") for output in cell.outputs))
        elif cell.source.startswith("### "):
            parts, name = re.match(ENTRY, cell.source, re.DOTALL), cell.source.partition("\n")[0]
            if not parts or name in found:
                raise ValueError(f"{name}: expected cause, *Fix:* and code, and one such entry")
            texts = [text or "" for text in parts.groups()]
            texts[1] = re.split(r"(?<=[.!?])\s", texts[1])[0]
            found[name] = Entry(section, *texts, said := [])
        elif heading := re.search(r"^## (.+)", cell.source, re.MULTILINE):
            section, said = heading[1], []
    return list(found.values())


def index(found: list[Entry]) -> str:
    """Write the index as Markdown: a table for each section."""
    lines: list[str] = []
    for section in dict.fromkeys(entry.section for entry in found):
        first = "mistake" if section.startswith("Silent") else "message"
        lines += ["", f"**{section}**", "", f"| {first} | cause | fix | proof |"]
        lines += ["| --- " * 4 + "|", *(entry.row() for entry in found if entry.section == section)]
    return "\n".join(lines[1:])


def with_part(text: str, name: str, content: str) -> str:
    """Put ``content`` between the comments of a page's part; ValueError if there is not one."""
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
