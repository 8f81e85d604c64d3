"""The house: the lock, the environment made from it, and the floors of the package."""
import ast
import os
import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from maintainers import environment
from maintainers.environment import SetupError, name_of, note_for, requirements, split_for_cpu

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
# What `make test` hands down to the commands it runs; a test starts make afresh.
HANDED_DOWN = {"PYTHON", "TORCH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def dependencies():
    """The dependencies that pyproject.toml lists (Python 3.10 has no reader for TOML)."""
    block = PYPROJECT.split("\ndependencies = [")[1].split("\n]")[0]
    return re.findall(r'^\s*"([^"]+)"', block, flags=re.MULTILINE)


def test_the_lock_pins_every_dependency():
    names = {name_of(requirement) for requirement in requirements(LOCK)}
    for dependency in dependencies():
        assert name_of(dependency) in names, f"{dependency}: write the lock anew"
        if "==" in dependency:
            assert dependency in requirements(LOCK)
    assert all(re.match(r"[\w.-]+==[\w.]+( ; .+)?$", line) for line in requirements(LOCK))


def test_torch_and_torchvision_are_pinned_together_and_alike_everywhere():
    pins, _ = split_for_cpu(LOCK)
    assert pins == ["torch==2.14.1", "torchvision==0.29.2"]


def test_the_lock_names_no_host_and_no_folder_of_a_machine():
    assert re.findall(r"://|^-|file:|/\w+/\w+", LOCK, flags=re.MULTILINE) == []


def test_the_lock_is_for_all_systems():
    for marker in ("sys_platform == 'linux'", "sys_platform == 'darwin'", "os_name == 'nt'",
                   "python_full_version < '3.11'"):
        assert marker in LOCK


def test_conda_and_binder_install_the_same_lock():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    packages = re.findall(r"^\s+- (.+)$", text.split("dependencies:")[1], flags=re.MULTILINE)
    assert packages == ["python=3.12", "pip", "pip:", "-r requirements.txt", "-e ."]


def test_the_cpu_lock_is_the_lock_without_cuda():
    pins, rest = split_for_cpu(LOCK)
    left_out = {name_of(line) for line in requirements(LOCK)} - {name_of(line) for line in rest}
    assert left_out > {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit"}
    assert all(name.startswith(("nvidia-", "cuda-")) or name in ("torch", "torchvision", "triton")
               for name in left_out)
    # What only Linux gets comes with CUDA: a new name here belongs into the filter.
    assert [line for line in rest if "sys_platform == 'linux'" in line and "darwin" not in line] == []
    assert set(pins + rest) <= set(requirements(LOCK))


def test_comments_and_annotations_are_no_requirements():
    text = "# head\ntorch==2.0  # pinned\n    # via\n    #   x\nx==1 ; os_name == 'nt'\n\ntriton==3"
    assert split_for_cpu(text) == (["torch==2.0"], ["x==1 ; os_name == 'nt'"])


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder with a small lock, and the commands that would have been run."""
    (tmp_path / "requirements.txt").write_text("torch==2.0\nnvidia-x==1\ntqdm==4\n")
    commands = []

    def run(command):
        commands.append([str(part) for part in command])
        if "venv" in command:
            python = environment.venv_python(tmp_path / ".venv")
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()

    monkeypatch.setattr(environment, "run", run)
    return tmp_path, commands


def test_the_environment_is_made_once_and_again_when_the_lock_changes(house):
    root, commands = house
    assert environment.make(root) is True
    made = len(commands)
    assert environment.make(root) is False and len(commands) == made
    lock = root / "requirements.txt"
    lock.write_text("# a comment changes nothing\n" + lock.read_text())
    assert environment.make(root) is False
    lock.write_text(lock.read_text().replace("tqdm==4", "tqdm==5"))
    assert environment.make(root) is True and len(commands) == 2 * made


def test_another_build_of_torch_makes_it_anew_and_then_stays(house):
    root, _ = house
    assert environment.make(root) is True
    assert environment.make(root, "cpu") is True
    assert environment.make(root) is False
    assert environment.make(root, "default") is True


def test_another_python_makes_it_anew(house, monkeypatch):
    root, _ = house
    environment.make(root)
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert environment.make(root) is True


def test_a_broken_off_install_is_made_again(house, monkeypatch):
    root, commands = house
    environment.make(root)
    (root / "requirements.txt").write_text("torch==3.0\n")
    with monkeypatch.context() as patch:
        patch.setattr(environment, "install", interrupted)
        with pytest.raises(KeyboardInterrupt):
            environment.make(root)
    (root / "requirements.txt").write_text("torch==2.0\nnvidia-x==1\ntqdm==4\n")
    assert environment.make(root) is True, "the old note must not outlive the old environment"


def interrupted(*_):
    raise KeyboardInterrupt


def test_the_cpu_build_comes_from_its_own_index_and_brings_no_dependencies(house, monkeypatch):
    root, commands = house
    reduced = []
    record = environment.run

    def run(command):
        if "-r" in command:
            reduced.append(Path(command[-1]).read_text())
        record(command)

    monkeypatch.setattr(environment, "run", run)
    environment.make(root, "cpu")
    assert reduced == ["tqdm==4\n"]
    assert commands[2][-4:] == ["--no-deps", "--index-url", environment.CPU_INDEX, "torch==2.0"]
    assert sum(environment.CPU_INDEX in command for command in commands) == 1


def test_an_active_environment_is_not_made_again_under_its_own_feet(house, monkeypatch):
    root, _ = house
    monkeypatch.setattr(sys, "prefix", str(root / ".venv"))
    with pytest.raises(SetupError, match="deactivate"):
        environment.make(root)


def test_a_failing_command_is_named():
    with pytest.raises(SetupError, match="(?s)exit\\(3\\).*ended with 3"):
        environment.run([sys.executable, "-c", "exit(3)"])


def test_an_old_python_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 6))
    assert re.search(r"3\.10 or newer is needed; .* is 3\.9\. .*PYTHON=", environment.main([]))


def test_the_note_holds_the_build_of_torch(tmp_path):
    (tmp_path / environment.NOTE).write_text(note_for("torch==1\n", "cpu"))
    assert environment.torch_of(tmp_path) == "cpu"
    assert environment.torch_of(tmp_path / "none") is None


def make(*arguments):
    variables = {key: value for key, value in os.environ.items() if key not in HANDED_DOWN}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=variables, capture_output=True,
                          encoding="utf-8")


@needs_make
def test_make_alone_lists_every_command():
    shown = make().stdout
    assert re.findall(r"^make (\w+)", shown, flags=re.MULTILINE) == [
        "lab", "run", "test", "notebooks", "setup"]


@needs_make
def test_make_uses_the_python_named_and_passes_torch_on():
    shown = make("-n", "setup", "PYTHON=my-python", "TORCH=cpu").stdout
    assert 'my-python -m maintainers.environment --torch "cpu"' in shown


@needs_make
def test_make_without_a_python_says_which_is_needed():
    done = make("setup", "PYTHON=")
    assert done.returncode != 0 and "Python 3.10 or newer is needed" in done.stderr


def test_ci_runs_make_test_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines == ["#!/usr/bin/env bash", 'cd "$(dirname "$0")/.." && exec make test']


# The floors of the package, ground floor first: a module imports from its own and those below.
FLOORS = [
    {"environment", "files", "pages", "processes", "progress"},
    {"anchors", "augment", "benchmark", "faces", "flat_file", "labels", "loss", "matching", "metrics",
     "model", "notebook_files", "runtimes", "sqnr", "standalone", "storage", "submission",
     "widerface"},
    {"batches", "datasets", "detect", "drawing", "gallery", "images", "quantizable", "training",
     "training_run"},
    {"checkpoint", "checks", "diagnose", "evaluate", "export", "int8_arrays", "int8_file", "ledger",
     "pt2e", "quantize"},
    {"plots", "scoreboard"},
    {"commands", "results"},
    {"notebooks", "__main__"},
]
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
PACKAGE = ROOT / "blaze_utils"


def module_of(path):
    """The module of the package that a file belongs to: `faces` for `faces/scene.py`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path):
    """The modules of the package that a file imports, also inside its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 1 and path.parent != PACKAGE:
                continue  # from beside it, in the same folder of the package
            assert node.level == 0, f"{path}:{node.lineno}: write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("blaze_utils."))


IMPORTS = {}
for file in sorted(PACKAGE.rglob("*.py")):
    IMPORTS.setdefault(module_of(file), set()).update(set(imports_of(file)) - {module_of(file)})


def test_importing_the_package_costs_nothing():
    assert IMPORTS["__init__"] == set()


@pytest.mark.parametrize("module", sorted(IMPORTS.keys() - {"__init__"}))
def test_nothing_imports_upward(module):
    assert module in FLOOR_OF, "give the module a floor in FLOORS"
    assert [name for name in IMPORTS[module] if FLOOR_OF.get(name, 0) > FLOOR_OF[module]] == []


def test_no_module_imports_itself_through_others():
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the modules
