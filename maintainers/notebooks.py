"""Runs the notebook series: what `make run`, `make test` and `make notebooks` call.

    python -m maintainers.notebooks COMMAND [NOTEBOOK ...]      all notebooks if none is named

    run      execute in order, a page each under build/; stops at the first cell that fails
    check    execute and compare with the stored outputs (nbval, strict)
    store    execute, store outputs and links in the notebooks, renew data/scoreboard.csv
    links    renew the "previous | contents | next" lines only

The kernel is always this interpreter, whichever kernels Jupyter knows of, and the bars of
blaze_utils.progress are off in it, so that none lands in a stored output.
"""
from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager
from tqdm import tqdm

from blaze_utils.measure import scoreboard
from blaze_utils.files import write_atomically
from maintainers.notebook_files import (
    NOTEBOOKS, NotebookError, ROOT, link, normalise, read, series, write,
)

BUILD = ROOT / "build"
SANITIZE = ROOT / "tests" / "sanitize.cfg"


def prepare_kernels() -> None:
    """Set what the kernels that this process starts inherit: no bars, and figures drawn inline.

    The bar of `execute` stays: tqdm itself reads the variable when it is imported.
    """
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.pop("MPLBACKEND", None)


def execute(path: Path) -> NotebookNode:
    """Execute a notebook from top to bottom in its own folder, with a progress bar on stderr.

    Returns it with its new outputs; the file is left alone. Raises `NotebookError` at the first
    cell that fails, with the cell's source and traceback.
    """
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    manager = AsyncKernelManager(kernel_name=CURRENT_ENV_KERNEL_NAME,
                                 kernel_spec_manager=NbvalKernelspecManager())
    with tqdm(total=len(code), desc=path.stem, unit="cell") as bar:
        client = NotebookClient(notebook, km=manager, timeout=None, record_timing=False,
                                coalesce_streams=True, force_raise_errors=True,
                                extra_arguments=["--log-level=ERROR"],
                                on_cell_executed=lambda **_: bar.update(),
                                resources={"metadata": {"path": str(path.parent)}})
        try:
            return client.execute(cleanup_kc=True)
        except (CellExecutionError, DeadKernelError) as error:
            reason = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) \
                else "the kernel died (out of memory?)"
            raise NotebookError(f"{path.name}, code cell {client.code_cells_executed} of "
                                f"{len(code)}: {reason}\n\n{error}") from error


def run(paths: list[Path]) -> None:
    """Execute notebooks in order, each as a page under `build/`."""
    BUILD.mkdir(exist_ok=True)
    for path in paths:
        start = time.perf_counter()
        scoreboard.forget(path.stem)
        page, _ = HTMLExporter().from_notebook_node(execute(path))
        for other in NOTEBOOKS.glob("*.ipynb"):
            page = page.replace(f'href="{other.name}"', f'href="{other.stem}.html"')
        target = BUILD / f"{path.stem}.html"
        write_atomically(target, page.encode("utf-8"))
        print(f"==> {target.relative_to(ROOT)} after {time.perf_counter() - start:.0f} s",
              flush=True)


def store(paths: list[Path]) -> None:
    """Execute notebooks in order and store their outputs, then all links and the scoreboard."""
    for path in paths:
        scoreboard.forget(path.stem)
        write(path, normalise(execute(path)))
    link()
    scoreboard.publish((path.stem for path in paths), (path.stem for path in series()))


class NotebookTimes:
    """A pytest plugin that prints how long each notebook took, kernel start included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = Path(report.nodeid.split("::")[0]).name
        self.seconds[name] = self.seconds.get(name, 0.0) + report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("seconds per notebook")
        for name, seconds in self.seconds.items():
            terminalreporter.write_line(f"{seconds:7.1f} s  {name}")


def check(paths: list[Path]) -> int:
    """Execute notebooks under nbval, every unmarked output compared; returns the exit status."""
    return pytest.main(["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}",
                        "--durations=5", *map(str, paths),
                        # It says that nbval, imported above, holds no asserts to be rewritten.
                        "-W", "ignore::pytest.PytestAssertRewriteWarning"],
                       plugins=[NotebookTimes()])


def main(arguments: list[str] | None = None) -> int | str:
    """The command line; returns the exit status, or a message for stderr."""
    parser = argparse.ArgumentParser(prog="python -m maintainers.notebooks")
    parser.add_argument("command", choices=("run", "check", "store", "links"))
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    options = parser.parse_args(arguments)
    prepare_kernels()
    try:
        paths = [path.resolve() for path in options.notebooks] or series()
        if options.command == "check":
            return int(check(paths))
        if options.command == "links":
            link()
        else:
            {"run": run, "store": store}[options.command](paths)
    except NotebookError as error:
        return f"==> {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
