"""The house around the package: the lock, what installs it, the commands, the pages."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from urllib.parse import unquote

import pytest
from PIL import Image

from docs import picture
from maintainers import notebooks, tables
from maintainers.notebooks import ROOT

OWNERS = packages_distributions()
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
# What `make test` hands down to the commands it runs; a test starts make afresh.
HANDED_DOWN = {"PYTHON", "TORCH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
COMMANDS = re.search(r"\.PHONY: help (.+)", MAKEFILE)[1].split()


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
    assert packages[:3] == ["python=3.12", "pip", "pip:"]
    assert packages[3].startswith("--extra-index-url https://download.pytorch.org/whl/cpu")
    assert packages[4:] == ["-c requirements.txt", "-e .[deploy]"]  # so that no version is free


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 cannot tell whose a module is")
def test_the_small_set_is_what_the_notebooks_import_but_10s_runtimes():
    small = PYPROJECT.split("\ndependencies = [")[1].split("\n]")[0]
    small = {name.lower() for name in re.findall(r'^    "([\w-]+)', small, flags=re.MULTILINE)}
    code = [path.read_text(encoding="utf-8") for path in ROOT.glob("blaze_utils/**/*.py")]
    for path in notebooks.series():
        if not path.name.startswith("10_"):
            code += [cell.source for cell in notebooks.read(path).cells if cell.cell_type == "code"]
    lines = "\n".join(re.sub(r"^[%!].*", "", text, flags=re.MULTILINE) for text in code)
    modules = set(re.findall(r"^(?:import|from) (\w+)", lines, flags=re.MULTILINE))
    modules -= {*sys.stdlib_module_names, "blaze_utils"}
    with_jupyterlab = {"ipython", "matplotlib-inline"}
    owners = {module: {name.lower() for name in OWNERS[module]} for module in modules}
    assert {m: o for m, o in owners.items() if o.isdisjoint(small | with_jupyterlab)} == {}
    unused = small - set().union(*owners.values()) - {"jupyterlab", "ipywidgets"}
    assert unused == set(), "no notebook needs these"


def make(*arguments):
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    variables = {key: value for key, value in os.environ.items() if key not in HANDED_DOWN}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=variables, capture_output=True, encoding="utf-8"
    )


def test_make_alone_lists_every_command():
    assert sorted(re.findall(r"^make (\w+)", make().stdout, flags=re.M)) == sorted(COMMANDS)


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
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", text, flags=re.MULTILINE)) == {*COMMANDS}
    for script in re.findall(r"(?:python|torchrun)[^\n`]* (maintainers/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"python -m ((?:blaze_utils|maintainers)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def rows_of(text):
    """The cells of a page's table rows, without heads and rules."""
    rows = re.findall(r"^\|(.+)\|$", text.replace(r"\|", "¦"), flags=re.MULTILINE)
    rows = [[cell.strip() for cell in row.split("|")] for row in rows]
    rules = {place for place, row in enumerate(rows) if set("".join(row)) <= set("-: ")}
    return [row for place, row in enumerate(rows) if rules.isdisjoint({place, place + 1})]


def test_the_readme_is_short_and_begins_with_its_picture_of_the_results():
    lines = page("README.md").splitlines()
    assert len(lines) <= 120 and "(docs/picture.jpg)" in "".join(lines[:8])
    assert picture.PICTURE.stat().st_size < 250_000
    with Image.open(picture.PICTURE) as shown:
        stored, width = shown.info["comment"].decode(), shown.width
    assert width == picture.WIDTH
    assert stored == str(picture.figures(page("README.md"))), "run: python docs/picture.py"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "docs/install.md"])
def test_versions_are_those_of_the_lock(name):
    versions = re.findall(r"\b(torch\w*) (\d+\.\d+\.\d+)", page(name))
    assert {package for package, _ in versions} == {"torch", "torchvision", "torchao"}
    assert {f"{package}=={version}" for package, version in versions} <= set(pins())


def test_the_chinese_readme_has_the_tables_figures_and_commands_of_the_english_one():
    english, chinese = page("README.md"), page("README.zh-CN.md")
    table = picture.in_chinese(picture.results(english))
    assert picture.results(chinese).strip() == table, "run: python docs/picture.py"
    both = [[row for row in rows_of(text) if len(row) == 3] for text in (english, chinese)]
    series, other = ([(row[0].split("](")[1], row[2]) for row in rows] for rows in both)
    assert series == other, "the list of notebooks: links and times"
    assert [link[:-1] for link, _ in series] == [f"notebooks/{p.name}" for p in notebooks.series()]
    for kind in (r"(?<![\w/#])\d[\d.,]*\d\b", r"`([^`\n]+)`", r"```sh\n(\S+ \S+)"):
        one, two = (set(re.findall(kind, text)) for text in (english, chinese))
        assert one == two


def test_the_chinese_index_has_every_entry_of_the_gallery_with_cause_and_fix():
    rows = {row[2][row[2].index("[单元格]") :]: row for row in rows_of(page("docs/zh/errors.md"))}
    for entry in tables.entries(notebooks.read(tables.GALLERY)):
        row = rows.pop(f"[单元格](<../../notebooks/{tables.GALLERY.name}#{entry.anchor}>)")
        assert len(row) == 3 and row[1] and not row[2].startswith("["), entry.heading
        if entry.section.startswith("Loud") and "Segmentation" not in entry.heading:
            assert row[0].startswith(entry.heading.replace("|", "¦"))
    assert not rows, "these are in 08 no more"


def test_what_was_run_where_was_green():
    rows = rows_of(page("tests/README.md"))
    assert rows and [row for row in rows if row[3] != "green"] == []


LINK = re.compile(r"\]\(<?((?!https?:)[^)>#]*)(?:#((?:[^()>]|\([^()]*\))+))?>?\)")


def test_each_figure_of_the_story_is_in_a_notebook_that_its_paragraph_links_to():
    counted = 0
    for paragraph in page("docs/zh/story.md").split("\n\n"):
        texts = [page(f"notebooks/{name}") for name in re.findall(r"/(\w+\.ipynb)", paragraph)]
        prose = re.sub(r"\]\([^\n]+|[\w.]+ms", "", paragraph)
        for figure in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?", prose):
            counted += 1
            assert any(re.search(rf"(?<![\d.]){re.escape(figure)}", text) for text in texts), figure
    assert counted > 25


def anchors(path):
    """The ids of a page's headings: as Jupyter writes them, or as GitHub does."""
    if path.suffix == ".ipynb":
        cells = notebooks.read(path).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = path.read_text(encoding="utf-8")
    heads = [head.replace("`", "") for head in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)]
    if path.suffix == ".ipynb":
        return {head.replace(" ", "-") for head in heads}
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/README.md"), *ROOT.glob("docs/**/*.md")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(path):
    for target, fragment in LINK.findall(path.read_text(encoding="utf-8")):
        place = path.parent / unquote(target) if target else path
        assert place.exists(), target
        assert not fragment or unquote(fragment) in anchors(place), f"{target}#{fragment}"
