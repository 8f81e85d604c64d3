"""The files of the notebook series: reading them, the form they are stored in, their links."""
from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat import NotebookNode

from blaze_utils.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
# The tag of the first and the last cell of a notebook, which hold the links.
LINKS = "links"


class NotebookError(Exception):
    """A notebook that cannot be read or executed; the message names it, and the cell."""


def series() -> list[Path]:
    """The notebooks of the series in order. Raises `NotebookError` if there is none."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not paths:
        raise NotebookError(f"{NOTEBOOKS}: no notebooks found")
    return paths


def read(path: Path) -> NotebookNode:
    """Read a notebook. Raises `NotebookError` if it is missing or not a notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        raise NotebookError(f"{path}: cannot be read as a notebook: {error}") from error


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Remove what differs from one machine or editor to the next, in place: timings, versions."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(display_name="Python 3", language="python", name="python3"),
        language_info=NotebookNode(name="python"))
    for cell in notebook.cells:
        cell.metadata = NotebookNode(
            {key: cell.metadata[key] for key in ("jupyter", "tags") if key in cell.metadata})
    return notebook


def as_text(notebook: NotebookNode) -> str:
    """The text of a notebook's file, always the same for the same notebook."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook, whole or not at all."""
    write_atomically(path, as_text(notebook).encode("utf-8"))


def link() -> None:
    """Write the links into all notebooks of the series, where they are not what they should be."""
    for path, notebook in linked().items():
        if as_text(notebook) != as_text(read(path)):
            write(path, notebook)


def linked() -> dict[Path, NotebookNode]:
    """The notebooks of the series with their links as they should be; no file is changed."""
    notebooks = {path: read(path) for path in series()}
    names = [f"[{title(path, notebook)}]({path.name})" for path, notebook in notebooks.items()]
    for position, notebook in enumerate(notebooks.values()):
        parts = ["← " + names[position - 1]] if position > 0 else []
        parts.append("[Contents](../README.md)")
        parts += [names[position + 1] + " →"] if position + 1 < len(names) else []
        body = [cell for cell in notebook.cells if LINKS not in cell.metadata.get("tags", [])]
        notebook.cells = [_link_cell("top", parts), *body, _link_cell("bottom", parts)]
    return notebooks


def _link_cell(place: str, parts: list[str]) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(" | ".join(parts), id=f"links-{place}",
                                         metadata={"tags": [LINKS]})


def title(path: Path, notebook: NotebookNode) -> str:
    """A notebook's first `# ` heading. Raises `NotebookError` if it has none."""
    for cell in notebook.cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else []:
            if line.startswith("# "):
                return line[2:].strip()
    raise NotebookError(f"{path}: no '# ' heading to be its title")
