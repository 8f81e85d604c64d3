"""Makes the environment in `.venv` from the lock, `requirements.txt`: what `make setup` calls.

    python -m maintainers.environment [--torch default|cpu]

This runs before anything is installed: it uses the standard library only. The environment is made
anew when the lock, the build of torch or the Python version has changed, and left alone otherwise.
A note in `.venv`, written last, says what it was made from, so a broken-off install is made again.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 10)
NOTE = "made-from.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# The wheels of these come from CPU_INDEX in a CPU environment ...
TORCH = ("torch", "torchvision")
# ... and these, which only the default Linux build of torch asks for, are not installed at all.
CUDA = re.compile(r"(nvidia|cuda)-.*|triton")


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def requirements(lock):
    """The requirements of a lock file's text, one `name==version ; marker` each, no comments."""
    lines = (line.split(" #")[0].strip() for line in lock.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def name_of(requirement):
    """The package a requirement names: `torch` for `torch==2.14.1 ; python_version < "3.15"`."""
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower()


def split_for_cpu(lock):
    """A lock for the CPU build: `(torch and torchvision, everything else but CUDA's packages)`."""
    torch, rest = [], []
    for requirement in requirements(lock):
        name = name_of(requirement)
        if name in TORCH:
            torch.append(requirement)
        elif not CUDA.fullmatch(name):
            rest.append(requirement)
    return torch, rest


def venv_python(folder):
    """The interpreter of the virtual environment in `folder`."""
    inside = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    return Path(folder) / inside


def note_for(lock, torch):
    """What an environment is made from, as the text of its note."""
    digest = hashlib.sha256("\n".join(requirements(lock)).encode("utf-8")).hexdigest()
    version = "{}.{}".format(*sys.version_info[:2])
    return "torch: {}\npython: {}\nlock: {}\n".format(torch, version, digest)


def torch_of(folder):
    """The build of torch (`default` or `cpu`) in the environment in `folder`, None if none."""
    note = Path(folder) / NOTE
    if not note.is_file():
        return None
    return note.read_text(encoding="utf-8").split()[1]


def run(command):
    """Run a command; its output goes to the reader. Raises `SetupError` if it fails."""
    command = [str(part) for part in command]
    code = subprocess.call(command)
    if code != 0:
        raise SetupError(
            "The environment could not be made: the command\n    {}\nended with {}; its own "
            "message stands above. The lock has packages for Python 3.10 to 3.14 on Linux (x86 "
            "and Arm), macOS (Apple silicon) and Windows (x86).".format(" ".join(command), code)
        )


def install(python, lock_file, torch):
    """Install the lock and this package with the interpreter `python`."""
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    if torch == "cpu":
        pins, rest = split_for_cpu(lock_file.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            reduced = Path(folder) / "requirements-cpu.txt"
            reduced.write_text("\n".join(rest) + "\n", encoding="utf-8")
            run(pip + ["-r", reduced])
        # Without their dependencies: those are in the lock, and installed by now.
        run(pip + ["--no-deps", "--index-url", CPU_INDEX] + pins)
    else:
        run(pip + ["-r", lock_file])
    # setuptools is in the lock, as torch needs it: no second copy is fetched to build with.
    run(pip + ["--no-deps", "--no-build-isolation", "--quiet", "-e", lock_file.parent])


def make(root=ROOT, torch=None):
    """Make `root/.venv` from `root/requirements.txt`, unless it is there and up to date.

    `torch` is `default` (the wheels of the usual index: for Linux they bring CUDA), `cpu`, or None:
    as it was, `default` at first. Returns True if the environment was made.
    """
    folder, lock_file = Path(root) / ".venv", Path(root) / "requirements.txt"
    torch = torch or torch_of(folder) or "default"
    note, wanted = folder / NOTE, note_for(lock_file.read_text(encoding="utf-8"), torch)
    if (
        note.is_file()
        and note.read_text(encoding="utf-8") == wanted
        and venv_python(folder).exists()
    ):
        return False
    if Path(sys.prefix).resolve() == folder.resolve():
        raise SetupError(
            "The environment in .venv must be made again, but it is active: "
            "run 'deactivate' and try again."
        )
    print(
        "==> Making the environment in .venv ({} build of torch; a minute or two, longer where "
        "the download is slow)".format(torch),
        flush=True,
    )
    if torch == "default" and sys.platform == "linux":
        print(
            "    This build of torch for Linux is a download of about 3 GB, as it brings CUDA. "
            "Without it, 200 MB:\n        make setup TORCH=cpu",
            flush=True,
        )
    if note.exists():
        note.unlink()
    run([sys.executable, "-m", "venv", "--clear", folder])
    install(venv_python(folder), lock_file, torch)
    note.write_text(wanted, encoding="utf-8")
    print("==> The environment is ready", flush=True)
    return True


def main(arguments=None):
    """The command line; returns the exit status."""
    if sys.version_info < OLDEST_PYTHON:
        return (
            "Python {}.{} or newer is needed; {} is {}.{}. Name another one, for instance: "
            "make setup PYTHON=python3.12".format(
                *(OLDEST_PYTHON + (sys.executable,) + sys.version_info[:2])
            )
        )
    parser = argparse.ArgumentParser(prog="python -m maintainers.environment")
    parser.add_argument(
        "--torch",
        choices=("default", "cpu", ""),
        default="",
        help="which build of torch; not given: the one that is there",
    )
    try:
        make(torch=parser.parse_args(arguments).torch)
    except SetupError as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
