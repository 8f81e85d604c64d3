"""Run the notebooks as a reader does: in JupyterLab, in a browser, with "Run All Cells".

    python play/lab.py [NOTEBOOK ...]      all notebooks if none is named

They are copied first, so that the stored outputs stay as they are. A line for each notebook; the
exit status is 1 if a cell has ended in an error. Without Chromium a line says how to get it.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from play import chromium  # noqa: E402

# Not copied: what is not the series, and what a reader may have downloaded or drawn.
LEFT = (".*", "build", "__pycache__", "train", "widerface", "published", "index.html")
LONGEST = 1800  # seconds that a notebook may take

NOTEBOOK = "jupyterapp.shell.currentWidget"
KERNEL = f"{NOTEBOOK}?.sessionContext?.session?.kernel"
READY = f"window.jupyterapp && {NOTEBOOK}?.content?.widgets?.length && {KERNEL}?.status == 'idle'"
CLEAR = "jupyterapp.commands.execute('notebook:clear-all-cell-outputs')"
RUN = "void jupyterapp.commands.execute('notebook:run-all-cells')"  # what the menu calls
CODE = f"{NOTEBOOK}.content.widgets.map(w => w.model)" + (
    ".filter(m => m.type == 'code' && m.sharedModel.getSource().trim())"
)
OUTPUTS = "[...Array(m.outputs.length).keys()].map(i => m.outputs.get(i))"
# Read from the model: the page draws only the cells that are in view.
ERRORS = f"{CODE}.flatMap(m => {OUTPUTS}).filter(o => o.type == 'error').map(o => o.toJSON())"
DONE = f"{KERNEL}.status == 'idle' && ({CODE}.every(m => m.executionCount) || {ERRORS}.length > 0)"


@contextmanager
def jupyterlab(root: Path, settings: Path) -> Iterator[str]:
    """Start JupyterLab in a folder; gives the address of its notebooks, up to their names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = {
        "ServerApp.root_dir": root,
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
    }
    # The reader's own settings, workspaces and kernels play no part.
    own = {"JUPYTER_CONFIG_DIR": settings / "config", "JUPYTER_DATA_DIR": settings / "data"}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": settings / "workspaces", "JUPYTER_PREFER_ENV_PATH": 1}
    own |= {"JUPYTER_CONFIG_PATH": ROOT / "maintainers" / "lab", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
    command = [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())]
    with open(settings / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={token}", process, settings / "log")
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{{}}?reset&token={token}"
    finally:
        process.terminate()
        process.wait(60)


def _wait_for(address: str, process: subprocess.Popen, log: Path, seconds: float = 120) -> None:
    """Return when a server answers; exit with its log when it has ended or takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"==> browser: JupyterLab did not start\n{log.read_text()}")


def run(page: chromium.Page, address: str, name: str) -> int:
    """Open a notebook, run all its cells, print a line; returns the number of errors."""
    page.open(address.format(name))
    page.wait(READY, 120)
    page.evaluate(CLEAR)  # otherwise a run that has not begun looks like one that has ended
    page.wait(f"{CODE}.every(m => !m.executionCount)")
    start = time.monotonic()
    page.evaluate(RUN)
    page.wait(DONE, LONGEST)
    seconds = time.monotonic() - start
    errors, cells = page.evaluate(ERRORS), page.evaluate(f"{CODE}.length")
    ended = "no error" if not errors else f"{len(errors)} errors"
    print(f"{name}: {cells} code cells in {seconds:.0f} s, {ended}", flush=True)
    for error in errors:
        print(f"    {error['ename']}: {error['evalue'].splitlines()[0]}", flush=True)
    page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
    return len(errors)


def main(paths: list[str]) -> int:
    """Run the notebooks; return the exit status."""
    if chromium.find() is None:
        print(f"==> browser: skipped, {chromium.MISSING}")
        return 0
    names = [Path(path).name for path in paths]
    names = names or sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy, settings = Path(folder) / "series", Path(folder) / "settings"
        settings.mkdir()
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT))
        with jupyterlab(copy, settings) as address, chromium.page() as page:
            return int(sum(run(page, address, name) for name in names) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
