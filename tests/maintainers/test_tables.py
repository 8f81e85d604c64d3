"""The index of the error gallery, and the parts of pages that commands write."""

import re
from html.parser import HTMLParser

import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from maintainers import tables
from maintainers.notebooks import NOTEBOOKS, ROOT, read
from maintainers.tables import Entry, with_part


@pytest.fixture(scope="module")
def stored():
    return read(tables.GALLERY)


@pytest.fixture(scope="module")
def found(stored):
    return tables.entries(stored)


def test_an_entry_is_a_heading_and_the_first_sentence_below_it():
    cells = [
        new_markdown_cell("# Title\n\nProse.\n\n## Loud: one"),
        new_markdown_cell("### `a.out`\n\nThe [stub](03.ipynb) of\n`a.b` is\nmissing. More."),
        new_code_cell("### no entry\n\nNor this."),
        new_markdown_cell("## Silent"),
        new_markdown_cell("### Two\n\nIs it alone? Yes."),
    ]
    assert tables.entries(new_notebook(cells=cells)) == [
        Entry("Loud: one", "`a.out`", "The stub of `a.b` is missing."),
        Entry("Silent", "Two", "Is it alone?"),
    ]


@pytest.mark.parametrize("sources", [["### `Alone`", "Prose"], ["### A\n\nB.", "### A\n\nC."]])
def test_entries_without_meaning_or_with_equal_anchors_are_refused(sources):
    cells = [new_markdown_cell(source) for source in sources]
    with pytest.raises(ValueError, match="###"):
        tables.entries(new_notebook(cells=cells))


def test_the_index_has_a_table_for_each_section():
    found = [Entry("Loud", "`a|b (c)`", "A | B."), Entry("Silent: x", "three", "Three.")]
    assert tables.index(found).splitlines() == [
        "**Loud**",
        "",
        "| message | what it means | where |",
        "| --- | --- | --- |",
        r"| `a\|b (c)` | A \| B. | [entry](<08_error_gallery.ipynb#a%7Cb-(c)>) |",
        "",
        "**Silent: x**",
        "",
        "| mistake | what it means | where |",
        "| --- | --- | --- |",
        "| three | Three. | [entry](<08_error_gallery.ipynb#three>) |",
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


def test_the_loud_entries_come_first_and_the_readme_counts_them(found):
    silent = [entry.section.startswith("Silent") for entry in found]
    assert silent == sorted(silent) and silent.count(False) >= 20 and silent.count(True) >= 9


def test_every_entry_raises_its_message_and_says_how_to_mend_it(stored, found):
    cells = stored.cells
    places = [place for place, cell in enumerate(cells) if cell.source.startswith("### ")]
    for entry, place in zip(found, places, strict=True):
        prose, code = " ".join(cells[place].source.split()), cells[place + 1]
        assert "*Fix:*" in prose and "Seen with torch " in prose, entry.heading
        assert code.cell_type == "code" and code.execution_count, entry.heading
        if entry.section.startswith("Loud"):
            assert re.search(r"with (fails|warns|cannot_run)\(", code.source), entry.heading


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
