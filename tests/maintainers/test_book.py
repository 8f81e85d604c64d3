"""The book: a page for each error, the checks of its links, and that all of it builds."""

import re
import subprocess
import sys

import pytest

from maintainers import tables
from maintainers.notebooks import ROOT, read

BOOK = ROOT / "docs" / "book"
MADE = ROOT / ".venv-book" / "made"


@pytest.mark.parametrize("page", [*BOOK.glob("pages/*.md")], ids=lambda page: page.stem)
def test_what_the_prose_pages_print_is_current(monkeypatch, page):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(BOOK))
    import figures

    text = page.read_text(encoding="utf-8")
    assert figures.printed(text) == text, "run: python docs/book/figures.py"


@pytest.fixture(scope="module")
def scripts():
    """What builds the book needs nothing but Python, except for Sphinx itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BOOK))
        import errors
        import links
        import sources

        return errors, links, sources.gather()


def test_every_entry_of_the_gallery_has_a_page_with_its_message_cause_fix_and_proof(scripts):
    files = scripts[2]
    index = files["notebooks/README.md"]
    for entry in tables.entries(read(tables.GALLERY)):
        name = f"errors/{scripts[0].file_name(entry.heading)}.md"
        page = files[name]
        assert f"[page](../{name}), [cell](<08_error_gallery.ipynb#{entry.anchor}>)" in index
        assert f"\n# {entry.heading}\n" in page and entry.code in page
        places = [page.index(f"\n## {part}\n") for part in ("Cause", "Fix", "Proof")]
        assert places == sorted(places) and "````python" in page[places[-1] :]
        assert all(text in page for text in entry.said), entry.heading


def test_the_contents_name_every_page_once_and_each_solution_is_folded(scripts):
    files = scripts[2]
    listed = re.findall(r"^(?:.+ <)?(\S+\.(?:md|ipynb))>?$", files["README.md"], flags=re.MULTILINE)
    pages = {n for n in files if n.endswith((".md", ".ipynb")) and not n.startswith("errors/")}
    assert sorted(listed) == sorted(pages - {"README.md"})
    assert files["notebooks/02_naive_quantization.ipynb"].count('"hide-cell"') >= 2


PAGES = {
    "fine": '<a href="b.html#there">x</a><a href="https://pytorch.org">x</a><img src="c.png">',
    "no such file": '<a href="d.html">x</a>',
    "no such place": '<a href="b.html#here">x</a>',
    "fetches https://cdn.org/x.js": '<script src="https://cdn.org/x.js"></script>',
    "fetches //cdn.org/x.css": '<style></style><link rel="stylesheet" href="//cdn.org/x.css">',
}


@pytest.mark.parametrize("problem", PAGES)
def test_a_broken_link_and_what_comes_from_elsewhere_are_found(scripts, tmp_path, problem):
    (tmp_path / "a.html").write_text(PAGES[problem])
    (tmp_path / "b.html").write_text('<p id="there">')
    (tmp_path / "c.png").touch()
    found, _ = scripts[1].wrong(tmp_path)
    assert [text.startswith(f"a.html: {problem}") for text in found] == [True] * (problem != "fine")


@pytest.mark.skipif(not MADE.is_file(), reason="no environment for the book: make book")
@pytest.mark.skipif(sys.platform == "win32", reason="paths of the environment differ")
def test_the_book_builds_without_a_warning_and_no_link_is_broken(tmp_path):
    python, source, book = ROOT / ".venv-book" / "bin" / "python", tmp_path / "in", tmp_path / "out"
    sphinx = ["-m", "sphinx", "-q", "-W", "-c", BOOK, "-d", tmp_path / "trees", source, book]
    for command in ([BOOK / "sources.py", source, book], sphinx, [BOOK / "links.py", book]):
        done = subprocess.run([python, *command], capture_output=True, encoding="utf-8", cwd=ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
