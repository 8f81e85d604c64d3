"""The house around the package: the lock, what installs it, and the commands."""

import os
import re
import shutil
import subprocess

import pytest

from maintainers.notebooks import ROOT

LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
# What `make test` hands down to the commands it runs; a test starts make afresh.
HANDED_DOWN = {"PYTHON", "TORCH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
COMMANDS = ["lab", "run", "test", "check", "notebooks", "scenes", "setup"]


def pins():
    """The lines of the lock, without comments."""
    lines = (line.split(" #")[0].strip() for line in LOCK.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_the_lock_pins_every_dependency():
    """Python 3.10 has no reader for TOML: the lists are read as text."""
    wanted = re.findall(r'^    "([\w.-]+)([^"]*)",$', PYPROJECT, flags=re.MULTILINE)
    names = {pin.split("==")[0] for pin in pins()}
    assert len(wanted) > 20 and {name for name, _ in wanted} <= names, "write the lock anew"
    assert {name + rest for name, rest in wanted if rest.startswith("==")} <= set(pins())
    assert all(re.match(r"[\w.-]+==[\w.]+( ; .+)?$", pin) for pin in pins())


def test_the_lock_is_for_all_systems_and_names_no_host_and_no_folder_of_a_machine():
    assert re.findall(r"://|^-|file:|/\w+/\w+", LOCK, flags=re.MULTILINE) == []
    for marker in ("'linux'", "'darwin'", "os_name == 'nt'", "python_full_version < '3.11'"):
        assert marker in LOCK


def test_conda_and_binder_take_the_versions_of_the_lock():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    packages = re.findall(r"^\s+- (.+)$", text.split("dependencies:")[1], flags=re.MULTILINE)
    assert packages == ["python=3.12", "pip", "pip:", "-c requirements.txt", "-e .[deploy]"]


def make(*arguments):
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    variables = {key: value for key, value in os.environ.items() if key not in HANDED_DOWN}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=variables, capture_output=True, encoding="utf-8"
    )


def test_make_alone_lists_every_command():
    assert re.findall(r"^make (\w+)", make().stdout, flags=re.MULTILINE) == COMMANDS


def test_the_environment_is_made_with_the_python_and_the_torch_asked_for():
    lines = make("-n", "-W", "requirements.txt", "setup", "PYTHON=my-python", "TORCH=cpu").stdout
    assert "my-python -m venv .venv" in lines
    assert lines.index("whl/cpu torch torchvision") < lines.index("-c requirements.txt -e .")
    assert "deploy" not in lines
    everything = make("-n", "-W", "requirements.txt", "setup", "TORCH=default", "ALL=1").stdout
    assert "whl/cpu" not in everything and '-e ".[deploy,dev]"' in everything


def test_without_a_python_make_says_which_is_needed():
    done = make("-W", "requirements.txt", "setup", "PYTHON=")
    assert done.returncode != 0 and "Python 3.10 or newer is needed" in done.stderr


def test_make_test_is_what_ci_runs_and_checks_everything():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines == ["#!/usr/bin/env bash", 'cd "$(dirname "$0")/.." && exec make test']
    recipe = make("-n", "test").stdout
    assert recipe.index("-m pytest tests") < recipe.index("-m maintainers.notebooks check")


def test_commands_in_the_documentation_exist():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert set(re.findall(r"`make ([a-z]+)", text)) <= {*COMMANDS, "book", "play", "browser"}
    for script in re.findall(r"(?:python|torchrun)[^\n`]* (maintainers/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"python -m ((?:blaze_utils|maintainers)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
