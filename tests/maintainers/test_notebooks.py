"""What every notebook of the series keeps to, and that the comparison of outputs can fail.

nbval says "passed" in many cases where it has compared nothing (a cell never executed, a misspelt
marker, a shell line that failed, a sanitize rule of the wrong form): those are looked for here.
"""
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import get_sanitize_patterns, metadata_tags

from maintainers import notebook_files
from maintainers.notebook_files import (
    LINKS, NOTEBOOKS, NotebookError, ROOT, as_text, linked, normalise, read, series,
)
from maintainers.notebooks import SANITIZE

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
MARKER = "# NBVAL_IGNORE_OUTPUT"
MACHINE_PATH = re.compile(r"/(home|root|work|tmp|Users|usr|opt)/\w|\b[A-Z]:\\\w|site-packages")
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(path):
    return read(path)


@pytest.fixture(scope="module")
def code(notebook):
    """The code cells that are executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def lines_of(cells):
    return [line for cell in cells for line in cell.source.splitlines()]


def texts_of(cells):
    """Every text in the stored outputs, also the data of figures that are text, such as SVG."""
    for cell in cells:
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (str(value) for kind, value in output.get("data", {}).items()
                        if not kind.startswith("image/png") and not kind.startswith("image/jpeg"))


def test_there_are_notebooks():
    assert series() == PATHS


def test_a_folder_without_notebooks_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(notebook_files, "NOTEBOOKS", tmp_path)
    with pytest.raises(NotebookError, match="no notebooks found"):
        series()


def test_executed_once_from_top_to_bottom(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_stored_by_make_notebooks(path, notebook):
    # The form is fixed, so that a change to one cell is a small diff.
    assert path.read_bytes().decode("utf-8") == as_text(normalise(notebook))


def test_links_are_current(path):
    assert as_text(linked()[path]) == as_text(read(path)), "run: make notebooks"


def test_no_errors_and_no_warnings_are_stored(code):
    outputs = [output for cell in code for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []


def test_no_machine_paths_addresses_or_progress_bars_are_stored(code):
    for text in texts_of(code):
        assert not MACHINE_PATH.search(text)
        assert not ADDRESS.search(text)
    assert not [o for cell in code for o in cell.outputs if WIDGET in o.get("data", {})]


def test_markers_are_exact_and_tags_have_no_say(code):
    assert [line for line in lines_of(code) if "NBVAL" in line and line != MARKER] == []
    assert [tag for cell in code for tag in cell.metadata.get("tags", []) if tag in metadata_tags
            or tag == "skip-execution"] == []


def test_most_cells_are_compared(code):
    assert sum(MARKER in cell.source for cell in code) <= len(code) / 5


def test_nothing_that_nbval_does_not_see(code):
    assert [line for line in lines_of(code) if line.lstrip().startswith("!")] == []
    # Jupyter does not show the value of a last line that ends in ";", nbval does.
    assert [cell.source for cell in code if cell.source.rstrip().endswith(";")] == []


def test_cells_are_short_and_explained(notebook, code):
    assert [cell.source for cell in code if len(cell.source.strip().splitlines()) > 40] == []
    prose = [cell for cell in notebook.cells
             if cell.cell_type == "markdown" and LINKS not in cell.metadata.get("tags", [])]
    assert len(prose) >= len(code)


@pytest.mark.parametrize("wanted", ["summary", "exercise"])
def test_closes_with_a_summary_and_exercises(notebook, wanted):
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert [line for line in lines_of(prose) if line.startswith("#") and wanted in line.lower()]


def test_nbval_loads_every_sanitize_rule():
    text = SANITIZE.read_text(encoding="utf-8")
    written = [line for line in text.splitlines() if re.match(r"\W*(regex|replace)\b", line)]
    assert 2 * len(get_sanitize_patterns(text)) == len(written) > 0


@pytest.mark.parametrize("text, sanitized", [
    ("torch 2.14.1+cpu", "torch 2.14.1"),
    ("torch 2.14.1+cu130", "torch 2.14.1"),
    ("1.0.0+custom", "1.0.0+custom"),
    ("off by -0.00 px", "off by 0.00 px"),
    ("-0.001 and 1-0.0", "-0.001 and 1-0.0"),
])
def test_what_the_sanitize_rules_do(text, sanitized):
    for regex, replacement in get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8")):
        text = re.sub(regex, replacement, text)
    assert text == sanitized


def small_notebook(*cells):
    """A notebook of `(source, stored output)` cells, as if it had been executed."""
    return new_notebook(cells=[new_markdown_cell("# Small")] + [
        new_code_cell(source, execution_count=count,
                      outputs=[new_output("stream", name="stdout", text=text)] if text else [])
        for count, (source, text) in enumerate(cells, 1)])


def command(name, *paths, folder):
    """Run `python -m maintainers.notebooks` where Jupyter knows a python3 kernel that is broken."""
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        '{"argv": ["no-such-program"], "display_name": "broken", "language": "python"}')
    return subprocess.run([sys.executable, "-m", "maintainers.notebooks", name, *map(str, paths)],
                          cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace",
                          env={**os.environ, "JUPYTER_PATH": str(folder / "jupyter"),
                               "PYTHONUTF8": "1"})


def test_an_altered_output_fails_the_check_and_the_right_one_passes(tmp_path):
    # With a bar that must stay away, in this interpreter and no other.
    bar = ("import sys\nfrom blaze_utils.progress import tqdm\n"
           "print(len(list(tqdm(range(3), disable=False))), sys.prefix)")
    right = small_notebook((bar, f"3 {sys.prefix}\n"), ("print(f'{2 / 3:.2f}')", "0.67\n"))
    altered = small_notebook((bar, f"3 {sys.prefix}\n"), ("print(f'{2 / 3:.2f}')", "0.66\n"))
    for name, notebook in (("right", right), ("altered", altered)):
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    done = command("check", tmp_path / "right.ipynb", tmp_path / "altered.ipynb", folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 3 passed" in done.stdout
    assert re.search(r"FAILED .*altered\.ipynb::Cell 1", done.stdout)
    assert re.search(r"\d s  right\.ipynb", done.stdout)


def test_a_failing_cell_stops_the_run_with_its_name_and_error(tmp_path):
    notebook = small_notebook(("wanted = 'int8'", ""), ("assert wanted == 'float', wanted", ""))
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    done = command("run", tmp_path / "broken.ipynb", folder=tmp_path)
    assert done.returncode == 1
    assert "broken.ipynb, code cell 2 of 2: AssertionError: int8" in done.stderr
    assert "assert wanted == 'float'" in done.stderr


def test_a_file_that_is_not_a_notebook_is_named(tmp_path):
    for name, text in (("broken.ipynb", '{"cells": ['), ("other.ipynb", "[]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(NotebookError, match=name):
            read(tmp_path / name)
    with pytest.raises(NotebookError, match="missing.ipynb"):
        read(tmp_path / "missing.ipynb")


def test_links_are_made_from_the_titles_and_made_once(monkeypatch, tmp_path):
    monkeypatch.setattr(notebook_files, "NOTEBOOKS", tmp_path)
    for name, heading in (("01_a", "# Float"), ("02_b", "Prose.\n\n# Static"), ("03_c", "# QAT")):
        nbformat.write(new_notebook(cells=[new_markdown_cell(heading)]), tmp_path / f"{name}.ipynb")
    notebook_files.link()
    once = [path.read_bytes() for path in series()]
    notebook_files.link()
    assert [path.read_bytes() for path in series()] == once
    first, middle, last = ([cell.source for cell in read(path).cells] for path in series())
    assert first[0] == first[2] == "[Contents](../README.md) | [Static](02_b.ipynb) →"
    assert middle == ["← [Float](01_a.ipynb) | [Contents](../README.md) | [QAT](03_c.ipynb) →",
                      "Prose.\n\n# Static",
                      "← [Float](01_a.ipynb) | [Contents](../README.md) | [QAT](03_c.ipynb) →"]
    assert last[-1] == "← [Static](02_b.ipynb) | [Contents](../README.md)"


def test_a_notebook_without_a_title_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(notebook_files, "NOTEBOOKS", tmp_path)
    nbformat.write(new_notebook(cells=[new_code_cell("# not a heading")]), tmp_path / "01.ipynb")
    with pytest.raises(NotebookError, match="01.ipynb: no '# ' heading"):
        linked()


def test_the_stored_form_keeps_what_a_reader_sees_and_drops_the_machines_traces():
    notebook = small_notebook(("print(1)", "1\n"))
    notebook.cells[1].metadata.update({"execution": {"iopub.execute_input": "2026"},
                                       "tags": ["solution"], "jupyter": {"source_hidden": True}})
    notebook.metadata.update({"language_info": {"name": "python", "version": "3.11.7"},
                              "kernelspec": {"name": "mine", "display_name": "Mine"}})
    stored = normalise(notebook)
    assert stored.cells[1].metadata == {"tags": ["solution"], "jupyter": {"source_hidden": True}}
    assert stored.cells[1].outputs[0].text == "1\n"
    assert stored.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}}
