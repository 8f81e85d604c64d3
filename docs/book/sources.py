"""Gather the book's pages for Sphinx: ``python docs/book/sources.py build/book-source build/book``.

Every README, the notebooks as they are stored, the prose of docs/, a page for each error; and what
they link to.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("*.md", "[a-z]*/README.md", "docs/*.md", "docs/zh/*.md", "docs/book/pages/*.md")
LINK = re.compile(r"\]\(<?([^)>#\s]+)|(?:src|href|srcset)=\"([^\"#]+)")
CHAPTERS = {
    "The series": ["notebooks/*.ipynb"],
    "Error messages": ["notebooks/README.md"],
    "How it works": ["docs/book/pages/*.md"],
    "中文": ["README.zh-CN.md", "docs/zh/*.md"],
    "Reference": ["autoapi/blaze_utils/index", "data/README.md", "[a-z]*/README.md", "docs/*.md"],
    "The project": ["CHANGELOG.md", "CONTRIBUTING.md", "*.md"],
}


TITLES = {"notebooks/README.md": "All messages", "autoapi/blaze_utils/index": "The package"}


def notebook(path: Path) -> str:
    """Give a notebook as stored, without its links to others; solutions folded."""
    book = json.loads(path.read_text(encoding="utf-8"))
    tags = [cell["metadata"].setdefault("tags", []) for cell in book["cells"]]
    for cell, names in zip(book["cells"], tags, strict=True):
        if "solution" in names:
            names.append("hide-cell")
        for output in cell.get("outputs", []):  # links in tables that are outputs
            data = output.get("data", {})
            if "text/html" in data:
                page = "".join(data["text/html"])
                data["text/html"] = re.sub(r'(href="[\w./]+)\.ipynb(?=["#])', r"\1.html", page)
    pairs = zip(book["cells"], tags, strict=True)
    book["cells"] = [cell for cell, names in pairs if "links" not in names]
    return json.dumps(book)


def contents(names: list[str]) -> str:
    """Write the table of contents that stands, hidden, below the README."""
    blocks, used = [], {"README.md"}
    for caption, patterns in CHAPTERS.items():
        listed = []
        for pattern in patterns:
            found = [name for name in names if Path(name).match(pattern) and name not in used]
            found = [n for n in found if n.count("/") == pattern.count("/")]
            listed += found if "autoapi" not in pattern else [pattern]
            used.update(found)
        listed = [f"{TITLES[name]} <{name}>" if name in TITLES else name for name in listed]
        if listed:
            head = ["```{toctree}", ":hidden:", ":titlesonly:", f":caption: {caption}", ""]
            blocks.append("\n".join([*head, *listed, "```"]))
    return "\n\n".join(blocks)


def gather() -> dict[str, str | bytes]:
    """Give every file of the folder by its path in it."""
    paths = sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        texts[path.relative_to(ROOT).as_posix()] = notebook(path)
    gallery = json.loads((ROOT / "notebooks" / errors.GALLERY).read_text(encoding="utf-8"))
    pages = errors.pages(gallery)
    others: dict[str, bytes] = {}
    for name, text in texts.items():
        for target in filter(None, (a or b for a, b in LINK.findall(text))):
            path = Path((ROOT / name).parent, unquote(target)).resolve()
            if path.is_file() and path.is_relative_to(ROOT):
                others[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    sections = [name for name, text in pages.items() if "{toctree}" in text]
    tree = "\n".join(f"../{name}" for name in sections)
    index = errors.linked_index(texts["notebooks/README.md"])
    texts["notebooks/README.md"] = (
        f"{index}\n```{{toctree}}\n:hidden:\n:titlesonly:\n\n{tree}\n```\n"
    )
    texts["README.md"] += f"\n{contents(list(texts))}\n"
    return others | pages | texts


def main(folder: str, book: str) -> None:
    """Make the folder anew; the book goes, too: Sphinx' index keeps only what it writes."""
    for old in (folder, book):
        shutil.rmtree(old, ignore_errors=True)
    for name, content in gather().items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


if __name__ == "__main__":
    main(*sys.argv[1:])
