"""A page for each entry of the error gallery: message, cause, fix, proof.

An entry stands once, in notebook 08; the pages are made of its cells as they are stored.
"""

import re
from typing import NamedTuple

GALLERY = "08_error_gallery.ipynb"
SAID = re.compile(r"^\w*(?:Error|Warning): .+", re.MULTILINE)
PARTS = r"### ([^\n]+)\n\n(.+?)\n\n(?:Also: (.+?)\.\n\n)?\*Fix:\* (.+?\n```)\n\n(.+)"
CODE = re.compile(r"`` (.+?) ``|`([^`]+)`")


def anchor(heading: str) -> str:
    """The anchor that Jupyter gives a heading, which the notebooks' links use."""
    return heading.strip().replace("`", "").replace(" ", "-")


def file_name(heading: str) -> str:
    """A page's name: the heading in small letters, at most 80 of them, and digits."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")[:80].rstrip("-")


class Entry(NamedTuple):
    """One entry: the parts of its cell, and the cells below it."""

    section: str
    heading: str
    cause: str
    also: str
    fix: str
    rest: str
    cells: list[dict]

    @property
    def said(self) -> list[str]:
        """The messages that its cells have stored, with their class."""
        texts = [printed(cell) for cell in self.cells if cell["cell_type"] == "code"]
        return list(dict.fromkeys(SAID.findall("\n".join(texts))))

    @property
    def wordings(self) -> list[str]:
        """All that somebody may search for: the heading, other wordings, what was said."""
        also = [a or b for part in self.also.split("; ") for a, b in CODE.findall(part)[:1]]
        said = [text.partition(": ")[2].removesuffix(" ...") for text in self.said]
        return list(dict.fromkeys([self.heading.replace("`", ""), *also, *said]))


def printed(cell: dict) -> str:
    """What a code cell has printed; ValueError if it has stored anything else."""
    if any(output["output_type"] != "stream" for output in cell["outputs"]):
        raise ValueError(f"{GALLERY}: an entry's cell stores more than text: {cell['id']}")
    return "".join("".join(output["text"]) for output in cell["outputs"])


def entries(notebook: dict) -> list[Entry]:
    """List the gallery's entries; ValueError if one is not of its form, or a name is not unique."""
    found: dict[str, Entry] = {}
    section, cells = "", []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if text.startswith("### "):
            parts, cells = re.fullmatch(PARTS, text, re.DOTALL), []
            if not parts or file_name(parts[1]) in found:
                raise ValueError(f"{text[:60]}: expected cause, *Fix:*, code; one such entry")
            texts = [part or "" for part in parts.groups()]
            found[file_name(parts[1])] = Entry(section, *texts, cells)
        elif heading := re.search(r"^## (.+)", text, re.MULTILINE):
            section, cells = heading[1], []
        else:
            cells.append(cell)
    return list(found.values())


PAGE = """{index}

# {heading}

{said}

## Cause

{cause}

## Fix

{fix}

{rest}

## Proof

From [notebook 08](<../notebooks/{gallery}#{anchor}>), whose settings define the helpers, and where
"above" and "below" are.

{proof}
"""


def page(entry: Entry) -> str:
    """Write an entry's page. Index entries make the search find a wording, whatever its length."""
    # Tildes, as the names hold backticks.
    index = [f"~~~{{index}} ! single: {text.split(';')[0]}\n~~~" for text in entry.wordings]
    said = ["````text\n" + "\n".join(entry.said) + "\n````"] if entry.said else []
    said += [f"Also: {entry.also}."] if entry.also else []
    proof = []
    for cell in entry.cells:
        text, is_code = "".join(cell["source"]), cell["cell_type"] == "code"
        proof.append(f"````python\n{text}\n````" if is_code else text)
        proof += [f"````text\n{printed(cell).rstrip()}\n````"] if is_code else []
    parts = {"index": "\n".join(index), "said": "\n\n".join(said), "proof": "\n\n".join(proof)}
    parts |= {"gallery": GALLERY, "anchor": anchor(entry.heading)}
    parts["fix"] = entry.fix[0].upper() + entry.fix[1:]
    text = PAGE.format(**entry._asdict() | parts)
    return re.sub(r"\]\((?=\w+\.ipynb)", "](../notebooks/", text)


def pages(notebook: dict) -> dict[str, str]:
    """Give the text of each page by its path: one an entry, and one a section with its contents."""
    found, texts = entries(notebook), {}
    for section in dict.fromkeys(entry.section for entry in found):
        names = [file_name(entry.heading) for entry in found if entry.section == section]
        toctree = "\n".join(["```{toctree}", ":titlesonly:", "", *names, "```"])
        texts[f"errors/{file_name(section)}.md"] = f"# {section}\n\n{toctree}\n"
    return texts | {f"errors/{file_name(entry.heading)}.md": page(entry) for entry in found}


def linked_index(text: str) -> str:
    """Give each row of the gallery's index a link to the entry's own page as well."""
    rows = text.split("\n")
    for number, row in enumerate(rows):
        if match := re.search(rf"\[cell\]\(<{GALLERY}#", row):
            heading = row[2:].split(" | ")[0].split("<br>")[0].replace(r"\|", "|")
            name = f"../errors/{file_name(heading)}.md"
            rows[number] = f"{row[: match.start()]}[page]({name}), {row[match.start() :]}"
    return "\n".join(rows)
