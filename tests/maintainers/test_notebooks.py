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

from maintainers import notebooks
from maintainers.notebooks import LINKS, NOTEBOOKS, ROOT, SANITIZE, as_text, read

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
MARKER = "# NBVAL_IGNORE_OUTPUT"
MACHINE_PATH = re.compile(r"/(home|root|work|tmp|Users|usr|opt)/\w|\b[A-Z]:\\\w|site-packages")
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")


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
    for output in (output for cell in cells for output in cell.outputs):
        yield output.get("text", "")
        for kind, value in output.get("data", {}).items():
            if kind not in ("image/png", "image/jpeg"):
                yield str(value)


def test_executed_once_from_top_to_bottom(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_stored_by_make_notebooks_with_current_links(path):
    # The form is fixed, so that a change to one cell is a small diff.
    stored = path.read_bytes().decode("utf-8")
    assert stored == as_text(read(path))
    assert stored == as_text(notebooks.linked()[path]), "run: python -m maintainers.notebooks links"


def test_no_errors_and_no_warnings_are_stored(code):
    outputs = [output for cell in code for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []


def test_no_machine_paths_or_addresses_are_stored(code):
    for text in texts_of(code):
        assert not MACHINE_PATH.search(text)
        assert not ADDRESS.search(text)


def test_markers_are_exact_and_tags_have_no_say(code):
    assert [line for line in lines_of(code) if "NBVAL" in line and line != MARKER] == []
    tags = {tag for cell in code for tag in cell.metadata.get("tags", [])}
    assert tags & {*metadata_tags, "skip-execution", "raises-exception"} == set()


def test_most_cells_are_compared(code):
    assert sum(MARKER in cell.source for cell in code) <= len(code) / 5


def test_nothing_that_nbval_does_not_see(code):
    assert [line for line in lines_of(code) if line.lstrip().startswith("!")] == []
    # Jupyter does not show the value of a last line that ends in ";", nbval does.
    assert [cell.source for cell in code if cell.source.rstrip().endswith(";")] == []


def test_cells_are_short_and_explained(notebook, code):
    assert [cell.source for cell in code if len(cell.source.strip().splitlines()) > 40] == []
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    own = [cell for cell in prose if LINKS not in cell.metadata.get("tags", [])]
    assert len(own) >= len(code)
    for wanted in ("summary", "exercise"):
        assert any(line.startswith("#") and wanted in line.lower() for line in lines_of(own))


def test_nbval_loads_every_sanitize_rule():
    text = SANITIZE.read_text(encoding="utf-8")
    written = [line for line in text.splitlines() if re.match(r"\W*(regex|replace)\b", line)]
    assert 2 * len(get_sanitize_patterns(text)) == len(written) > 0


@pytest.mark.parametrize(
    ("text", "sanitized"),
    [
        ("torch 2.14.1+cpu", "torch 2.14.1"),
        ("torch 2.14.1+cu130", "torch 2.14.1"),
        ("1.0.0+custom", "1.0.0+custom"),
        ("off by -0.00 px", "off by 0.00 px"),
        ("-0.001 and 1-0.0", "-0.001 and 1-0.0"),
        ("hard ≈ 0.874 and ≈ -3.1", "hard ≈ N and ≈ N"),
        ("float   ≈ 0.9    ≈ 10.25", "float\t≈ N\t≈ N"),
    ],
)
def test_what_the_sanitize_rules_do(text, sanitized):
    for regex, replacement in get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8")):
        text = re.sub(regex, replacement, text)
    assert text == sanitized


def small_notebook(path, *cells):
    """Write a notebook of ``(source, stored output)`` cells, as if it had been executed."""
    written = [new_markdown_cell("# Small")]
    for count, (source, text) in enumerate(cells, 1):
        outputs = [new_output("stream", name="stdout", text=text)] if text else []
        written.append(new_code_cell(source, execution_count=count, outputs=outputs))
    nbformat.write(new_notebook(cells=written), path)


def command(name, *paths, folder):
    """Run ``python -m maintainers.notebooks`` where Jupyter knows a broken python3 kernel."""
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = '{"argv": ["no-such-program"], "display_name": "broken", "language": "python"}'
    (kernel / "kernel.json").write_text(spec)
    variables = {"JUPYTER_PATH": str(folder / "jupyter"), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-m", "maintainers.notebooks", name, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **variables},
    )


def test_an_altered_output_fails_the_check_and_the_right_one_passes(tmp_path):
    # With a bar that must stay away, in this interpreter and no other.
    bar = "import sys\nfrom tqdm import tqdm\nprint(len(list(tqdm(range(3)))), sys.prefix)"
    right = (bar, f"3 {sys.prefix}\n"), ("print(f'{2 / 3:.2f}')", "0.67\n")
    small_notebook(tmp_path / "one.ipynb", *right, ("print(f'{2 / 3:.2f}')", "0.66\n"))
    done = command("check", tmp_path / "one.ipynb", folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 2 passed" in done.stdout
    assert re.search(r"FAILED .*one\.ipynb::Cell 2", done.stdout)


def test_a_failing_cell_stops_the_run_with_its_name_and_error(tmp_path):
    cells = ("wanted = 'int8'", ""), ("assert wanted == 'float', wanted", "")
    small_notebook(tmp_path / "broken.ipynb", *cells)
    done = command("run", tmp_path / "broken.ipynb", folder=tmp_path)
    assert done.returncode == 1
    assert "broken.ipynb, code cell 2: " in done.stderr
    assert "assert wanted == 'float', wanted" in done.stderr  # the cell's source


def test_links_are_made_from_the_titles_and_made_once(monkeypatch, tmp_path):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    for name, heading in (("01_a", "# Float"), ("02_b", "Prose.\n\n# Static"), ("03_c", "# QAT")):
        nbformat.write(new_notebook(cells=[new_markdown_cell(heading)]), tmp_path / f"{name}.ipynb")
    notebooks.link()
    once = [path.read_bytes() for path in notebooks.series()]
    notebooks.link()
    assert [path.read_bytes() for path in notebooks.series()] == once
    first, middle, last = ([cell.source for cell in read(p).cells] for p in notebooks.series())
    line = "← [Float](01_a.ipynb) | [Contents](../README.md) | [QAT](03_c.ipynb) →"
    assert first[0] == first[2] == "[Contents](../README.md) | [Static](02_b.ipynb) →"
    assert middle == [line, "Prose.\n\n# Static", line]
    assert last[-1] == "← [Static](02_b.ipynb) | [Contents](../README.md)"


def test_a_notebook_without_a_title_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    nbformat.write(new_notebook(cells=[new_code_cell("# not a heading")]), tmp_path / "01.ipynb")
    with pytest.raises(SystemExit, match="01.ipynb: no '# ' heading"):
        notebooks.linked()


def test_the_stored_form_keeps_what_a_reader_sees_and_drops_the_machines_traces(tmp_path):
    small_notebook(tmp_path / "one.ipynb", ("print(1)", "1\n"))
    notebook = read(tmp_path / "one.ipynb")
    kept = {"tags": ["solution"], "jupyter": {"source_hidden": True}}
    notebook.cells[1].metadata.update({"execution": {"iopub.execute_input": "2026"}, **kept})
    notebook.metadata.update({"language_info": {"name": "python", "version": "3.11.7"}})
    stored = nbformat.reads(as_text(notebook), as_version=4)
    assert stored.cells[1].metadata == kept and stored.cells[1].outputs[0].text == "1\n"
    assert stored.metadata.language_info == {"name": "python"}
