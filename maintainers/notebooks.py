"""Execute the notebook series: what ``make run``, ``make test`` and ``make notebooks`` call.

    python -m maintainers.notebooks COMMAND [NOTEBOOK ...]      all notebooks if none is named

    run      execute in order, a page each under build/; stops at the first cell that fails
    check    execute and compare with the stored outputs (nbval, strict)
    store    execute, store the outputs, then renew the links
    links    renew the "previous | contents | next" lines only

The kernel is always this interpreter, whichever kernels Jupyter knows of.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SANITIZE = ROOT / "tests" / "sanitize.cfg"
LINKS = "links"  # the tag of the first and the last cell of a notebook


def series() -> list[Path]:
    """List the notebooks of the series in order."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    """Read a notebook."""
    return nbformat.read(path, as_version=4)


def as_text(notebook: NotebookNode) -> str:
    """Give the text of a notebook's file, without what differs between machines and editors."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in ("jupyter", "tags") if key in cell.metadata}
        cell.metadata = NotebookNode(kept)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def linked() -> dict[Path, NotebookNode]:
    """Read the notebooks of the series and give them the links that they should have."""
    notebooks = {path: read(path) for path in series()}
    names = [f"[{title(path, notebook)}]({path.name})" for path, notebook in notebooks.items()]
    for position, notebook in enumerate(notebooks.values()):
        before = [f"← {name}" for name in names[max(position - 1, 0) : position]]
        after = [f"{name} →" for name in names[position + 1 : position + 2]]
        line = " | ".join([*before, "[Contents](../README.md)", *after])
        top, bottom = (
            nbformat.v4.new_markdown_cell(line, id=f"links-{place}", metadata={"tags": [LINKS]})
            for place in ("top", "bottom")
        )
        body = [cell for cell in notebook.cells if LINKS not in cell.metadata.get("tags", [])]
        notebook.cells = [top, *body, bottom]
    return notebooks


def title(path: Path, notebook: NotebookNode) -> str:
    """Find a notebook's first ``# `` heading; exit with a message if it has none."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    if found := re.search(r"^# (.+)$", prose, flags=re.MULTILINE):
        return found[1].strip()
    sys.exit(f"==> {path}: no '# ' heading to be its title")


def execute(path: Path) -> NotebookNode:
    """Execute a notebook in its own folder and return it with its new outputs.

    Exits at the first cell that fails, with the cell's source and traceback.
    """
    notebook = read(path)
    manager = AsyncKernelManager(
        kernel_name=CURRENT_ENV_KERNEL_NAME, kernel_spec_manager=NbvalKernelspecManager()
    )
    options = {"timeout": 900, "record_timing": False, "coalesce_streams": True}
    options |= {"force_raise_errors": True, "extra_arguments": ["--log-level=ERROR"]}
    options |= {"resources": {"metadata": {"path": str(path.parent)}}}
    client = NotebookClient(notebook, km=manager, **options)
    print(f"==> {path.name}", flush=True)
    try:
        return client.execute(cleanup_kc=True)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        sys.exit(f"==> {path.name}, code cell {client.code_cells_executed}: {error}")


def run(paths: list[Path]) -> None:
    """Execute notebooks in order, each as a page under ``build/``."""
    (ROOT / "build").mkdir(exist_ok=True)
    for path in paths:
        start = time.perf_counter()
        page, _ = HTMLExporter().from_notebook_node(execute(path))
        page = re.sub(r'(href="\w+)\.ipynb(["#])', r"\1.html\2", page)
        (ROOT / "build" / f"{path.stem}.html").write_text(page, encoding="utf-8")
        print(f"    build/{path.stem}.html, {time.perf_counter() - start:.0f} s", flush=True)


def write(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook in the stored form, with the same bytes on every system."""
    path.write_text(as_text(notebook), encoding="utf-8", newline="\n")


def store(paths: list[Path]) -> None:
    """Execute notebooks in order and store their outputs, then all links."""
    for path in paths:
        write(path, execute(path))
    link()


def link() -> None:
    """Write the links into all notebooks of the series, where they are not what they should be."""
    for path, notebook in linked().items():
        if as_text(notebook) != path.read_text(encoding="utf-8"):
            write(path, notebook)


def check(paths: list[Path]) -> int:
    """Execute notebooks under nbval, every unmarked output compared; return the exit status."""
    nbval = ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}"]
    # pytest warns that nbval, imported above, holds no asserts for it to rewrite.
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    two = ["-n", "2", "--dist", "loadscope"]  # two notebooks at a time, the longest first
    return int(pytest.main([*nbval, *two, "--durations=5", *quiet, *map(str, paths)]))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    commands = {"run": run, "check": check, "store": store, "links": lambda paths: link()}
    parser = argparse.ArgumentParser(prog="python -m maintainers.notebooks")
    parser.add_argument("command", choices=commands)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    options = parser.parse_args(arguments)
    # The kernels inherit both: no progress bars in outputs, and figures drawn inline.
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.pop("MPLBACKEND", None)
    return commands[options.command]([p.resolve() for p in options.notebooks] or series()) or 0


if __name__ == "__main__":
    sys.exit(main())
