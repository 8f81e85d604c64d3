"""The index of the error gallery, and the parts of pages that commands write."""

import ast
import re
from html.parser import HTMLParser

import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from maintainers import tables
from maintainers.notebooks import NOTEBOOKS, ROOT, read
from maintainers.tables import Entry, with_part


@pytest.fixture(scope="module")
def stored():
    return read(tables.GALLERY)


@pytest.fixture(scope="module")
def found(stored):
    return tables.entries(stored)


ALONE = "### `Alone`\n\nProse.\n\n*Fix:* none.\n\n```python\nx = 1\n```\n\nSeen."


def gallery(*pairs):
    """A notebook of prose cells, each with a code cell that has stored this text."""
    cells = []
    for prose, text in pairs:
        outputs = [new_output("stream", name="stdout", text=text)]
        cells += [new_markdown_cell(prose), new_code_cell("run()", outputs=outputs)]
    return new_notebook(cells=cells)


def test_an_entry_is_its_heading_cause_fix_code_and_what_its_cell_said():
    prose = (
        "### `a.out`\n\nThe stub of `a.b` is missing. More.\n\n"
        "Also: `a`; `b`.\n\n*Fix:* a stub.\n\n```python\nx = 1\n```\n\nSeen."
    )
    said = (
        "RuntimeError: a.out failed ...\nUserWarning: a | b\nfixed: 1\nRuntimeError: a.out failed"
    )
    notebook = gallery(
        ("# Title\n\n## Loud: one", ""), (prose, said), ("## Silent", ""), (ALONE, "")
    )
    texts = "`a.out`", "The stub of `a.b` is missing.", "`a`; `b`", "a stub.", "x = 1"
    assert tables.entries(notebook) == [
        Entry("Loud: one", *texts, ["a.out failed", "a | b", "a.out failed"]),
        Entry("Silent", "`Alone`", "Prose.", "", "none.", "x = 1", []),
    ]


@pytest.mark.parametrize("sources", [["### `Alone`\n\nProse."], [ALONE, ALONE]])
def test_entries_of_another_form_or_with_equal_anchors_are_refused(sources):
    with pytest.raises(ValueError, match="### `Alone`: expected"):
        tables.entries(gallery(*((source, "") for source in sources)))


def test_the_index_has_a_table_for_each_section():
    found = [
        Entry(
            "Loud", "`a|b (c)`", "A | B.", "`d`", "do.", "x = 1\ny = 2", ["a|b (c) was", "e", "e"]
        ),
        Entry("Silent: x", "three", "Three.", "", "go.", "for x in y:\n    x()", []),
    ]
    assert tables.index(found).splitlines() == [
        "**Loud**",
        "",
        "| message | cause | fix | proof |",
        "| --- | --- | --- | --- |",
        r"| `a\|b (c)`<br>`d`<br>`` a\|b (c) was ``<br>`` e `` | A \| B. "
        "| do.<br>`` x = 1 ``<br>`` y = 2 `` | [cell](<08_error_gallery.ipynb#a%7Cb-(c)>) |",
        "",
        "**Silent: x**",
        "",
        "| mistake | cause | fix | proof |",
        "| --- | --- | --- | --- |",
        "| three | Three. | go. | [cell](<08_error_gallery.ipynb#three>) |",
    ]


def test_only_what_is_between_the_comments_is_replaced_and_only_once():
    page = "before\n<!-- x:begin -->\nold\n<!-- x:end -->\nafter\n"
    new = with_part(page, "x", r"a \1 new")
    assert new == "before\n<!-- x:begin -->\na \\1 new\n<!-- x:end -->\nafter\n"
    assert with_part(new, "x", r"a \1 new") == new
    for text in ("", "<!-- x:begin -->\n", "<!-- x:end --><!-- x:begin -->\n", page + page):
        with pytest.raises(ValueError, match="<!-- x:begin -->"):
            with_part(text, "x", "content")


def test_the_stored_index_is_current(found):
    text = tables.INDEX.read_text(encoding="utf-8")
    current = with_part(text, "gallery", tables.index(found))
    assert text == current, "run: python -m maintainers.tables"


def test_the_readme_has_room_for_the_results_and_at_most_eight_rows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_part(text, "results", "") != text
    part = text.split("<!-- results:begin -->")[1].split("<!-- results:end -->")[0]
    assert 4 <= len(re.findall(r"^\|", part, flags=re.MULTILINE)) <= 10  # with head and rule


def test_the_loud_entries_come_first_and_there_are_seventy(found):
    silent = [entry.section.startswith("Silent") for entry in found]
    assert silent == sorted(silent) and len(silent) >= 70 and silent.count(True) >= 18


def test_every_entry_has_its_fix_in_a_few_lines_and_a_cell_that_raises_it(stored, found):
    cells = stored.cells
    places = [place for place, cell in enumerate(cells) if cell.source.startswith("### ")]
    for entry, place in zip(found, places, strict=True):
        code = cells[place + 1]
        assert "Seen with torch " in cells[place].source, entry.heading
        ast.parse(re.sub(r"^return ", "x = ", entry.code))
        assert len(entry.code.splitlines()) <= 6, entry.heading
        assert code.execution_count, entry.heading
        if entry.section.startswith("Loud") and "Segmentation fault" not in entry.heading:
            assert entry.said and re.search(r"with (fails|warns|cannot_run)\(", code.source)


def test_a_message_pasted_from_a_terminal_is_found_in_the_index(stored):
    page = tables.INDEX.read_text(encoding="utf-8").replace(r"\|", "|")
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    shown = [cell for cell in cells if "solution" not in cell.metadata.get("tags", [])]
    texts = [output.get("text", "") for cell in shown for output in cell.outputs]
    said = [message for text in texts for message in tables.SAID.findall(text)]
    assert len(said) >= 70
    assert [text for text in said if text not in page] == []


@pytest.mark.parametrize(
    "alias",
    ["quantized::conv2d_relu.new", "quantized::linear", "NoQEngine", "aten::thnn_conv2d_forward"],
)
def test_other_wordings_are_found_too(alias):
    assert alias in tables.INDEX.read_text(encoding="utf-8")


def test_the_links_of_the_index_are_ids_of_the_page(stored, found):
    class Ids(HTMLParser):
        found = set()

        def handle_starttag(self, tag, attributes):
            self.found.add(dict(attributes).get("id"))

    Ids().feed(HTMLExporter().from_notebook_node(stored)[0])
    assert {entry.anchor for entry in found} <= Ids.found


def test_links_between_notebooks_lead_somewhere():
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = [cell for cell in read(path).cells if cell.cell_type == "markdown"]
        for cell in cells:
            for name in re.findall(r"\]\(<?([\w./-]+\.(?:ipynb|md|py))", cell.source):
                assert (NOTEBOOKS / name).is_file(), f"{path.name}: {name}"
