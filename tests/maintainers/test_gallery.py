"""The index of the error gallery: what it is made from, and that the stored pages hold it."""
import re
from html.parser import HTMLParser

import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from maintainers import gallery
from maintainers.gallery import Entry, GalleryError
from maintainers.notebook_files import NOTEBOOKS, ROOT, read
from maintainers.pages import PageError

BEGIN, END = "<!-- gallery:begin -->", "<!-- gallery:end -->"


def notebook(*sources):
    return new_notebook(cells=[new_markdown_cell(source) for source in sources])


def test_an_entry_is_a_heading_and_the_first_sentence_below_it():
    found = gallery.entries(new_notebook(cells=[
        new_markdown_cell("# Title\n\nProse.\n\n## Loud: one"),
        new_markdown_cell("### `Could not run 'a.out'`\n\nThe [stub](03.ipynb) of\n`a.b` is\nmissing. More."),
        new_code_cell("### no entry\n\nNor this."),
        new_markdown_cell("## Silent"),
        new_markdown_cell("### Two\n\nIs it alone? Yes."),
    ]))
    assert found == [Entry("Loud: one", "`Could not run 'a.out'`", "The stub of `a.b` is missing."),
                     Entry("Silent", "Two", "Is it alone?")]


@pytest.mark.parametrize("sources, message", [
    (["## Loud", "No entry."], "no entries"),
    (["### `Alone`", "Prose in another cell."], "### `Alone`: expected prose"),
    (["### Twice\n\nA.", "### Twice\n\nB."], "Twice: 2 entries have this heading"),
])
def test_a_gallery_without_entries_or_meanings_or_with_equal_anchors_is_refused(sources, message):
    with pytest.raises(GalleryError, match=re.escape(message)):
        gallery.entries(notebook(*sources))


def test_the_index_has_a_table_for_each_section():
    found = [Entry("Loud", "`a|b (c)`", "A | B."), Entry("Loud", "two", "Two."),
             Entry("Silent: x", "three", "Three.")]
    assert gallery.index(found, "08.ipynb") == "\n".join([
        "**Loud**", "",
        "| message | what it means | where |", "| --- | --- | --- |",
        r"| `a\|b (c)` | A \| B. | [entry](<08.ipynb#a%7Cb-(c)>) |",
        "| two | Two. | [entry](<08.ipynb#two>) |", "",
        "**Silent: x**", "",
        "| mistake | what it means | where |", "| --- | --- | --- |",
        "| three | Three. | [entry](<08.ipynb#three>) |"])


def test_only_what_is_between_the_comments_is_replaced_and_only_once():
    found = [Entry("Loud", "one", "One.")]
    text = f"before\n{BEGIN}\nold | table\n{END}\nafter\n"
    here = gallery.with_index(text, found, NOTEBOOKS / "README.md")
    assert here.startswith(f"before\n{BEGIN}\n**Loud**") and here.endswith(f"|\n{END}\nafter\n")
    assert "old" not in here and "(<08_error_gallery.ipynb#one>)" in here
    assert gallery.with_index(here, found, NOTEBOOKS / "README.md") == here
    above = gallery.with_index(text, found, ROOT / "README.md")
    assert "(<notebooks/08_error_gallery.ipynb#one>)" in above


@pytest.mark.parametrize("text", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}{END}{END}",
                                  f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_the_two_comments_is_named(text):
    with pytest.raises(PageError, match="README.md: expected <!-- gallery:begin -->"):
        gallery.with_index(text, [], ROOT / "README.md")


def test_the_command_writes_every_page_and_names_what_it_cannot_write(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text(f"Ein Satz – mit Strich.\n{BEGIN}\n{END}\n", encoding="utf-8", newline="\n")
    monkeypatch.setattr(gallery, "PAGES", (page,))
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    assert gallery.main() == 0
    written = page.read_bytes().decode("utf-8")
    assert written.startswith("Ein Satz – mit Strich.\n") and "quantized::conv2d.new" in written
    assert "README.md: " in capsys.readouterr().out
    page.write_text("no comments", encoding="utf-8")
    assert "README.md: expected" in gallery.main()
    assert page.read_text(encoding="utf-8") == "no comments"
    page.unlink()
    assert "README.md" in gallery.main()


@pytest.fixture(scope="module")
def stored():
    return read(gallery.GALLERY)


@pytest.fixture(scope="module")
def found(stored):
    return gallery.entries(stored)


@pytest.mark.parametrize("page", gallery.PAGES, ids=lambda page: page.parent.name)
def test_the_stored_index_is_current(page, found):
    text = page.read_text(encoding="utf-8")
    assert gallery.with_index(text, found, page) == text, "run: python -m maintainers.gallery"


def test_there_are_enough_entries_and_the_loud_ones_come_first(found):
    silent = [entry.section.startswith("Silent") for entry in found]
    assert silent.count(False) >= 20 and silent.count(True) >= 9
    assert silent == sorted(silent)
    readme = (gallery.PAGES[0].parents[1] / "README.md").read_text(encoding="utf-8")
    assert (silent.count(False), silent.count(True)) == (30, 13), "the README counts them"
    assert "thirty messages and thirteen silent mistakes" in readme


def test_every_entry_raises_its_message_and_says_how_to_mend_it(stored, found):
    cells = stored.cells
    positions = [i for i, cell in enumerate(cells) if cell.source.startswith("### ")]
    assert len(positions) == len(found)
    for entry, position in zip(found, positions):
        prose, code = " ".join(cells[position].source.split()), cells[position + 1]
        assert "*Fix:*" in prose and "Seen with torch " in prose, entry.heading
        assert code.cell_type == "code" and code.execution_count, entry.heading
        if entry.section.startswith("Loud"):
            assert re.search(r"with (fails|warns|cannot_run)\(", code.source), entry.heading
            assert "print(" in code.source, entry.heading
        else:
            following = [cell.source for cell in cells[position + 1:position + 7]]
            assert [s for s in following if re.search(r"^ *(checks\.assert_|load_tensors\()|diagnose\(", s, re.M)], \
                entry.heading


def test_the_links_of_the_index_are_ids_of_the_page(stored, found):
    class Ids(HTMLParser):
        def __init__(self):
            super().__init__()
            self.found = set()

        def handle_starttag(self, tag, attributes):
            self.found.add(dict(attributes).get("id"))

    ids = Ids()
    ids.feed(HTMLExporter().from_notebook_node(stored)[0])
    assert {entry.anchor for entry in found} <= ids.found


def test_the_notebooks_that_it_refers_to_exist(stored):
    links = {name for cell in stored.cells if cell.cell_type == "markdown"
             for name in re.findall(r"\]\((\d\d_\w+\.ipynb)", cell.source)}
    assert links and [name for name in links if not (NOTEBOOKS / name).is_file()] == []
