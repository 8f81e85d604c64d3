"""Check the book's search in Chromium, from files: ``python docs/book/search.py build/book``.

Every wording of every entry of the error gallery is searched for as it is, and as it comes from a
terminal: a class before it, a path of the reader's own behind it. The entry's page must be among
the first three hits. Where there is no Chromium, one line says so.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from html import unescape
from pathlib import Path

import errors

PASTED = "RuntimeError: {} at 0x7f21, /home/me/train.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=60000")  # fmt: skip
SCRIPT = """<script>addEventListener("load", () => {
  const hits = QUERIES.map((query) => Search._performSearch(...Search._parseQuery(query)).reverse()
    .slice(0, 3).map((hit) => hit[0]));
  document.body.innerHTML = "<pre id=hits></pre>";
  document.getElementById("hits").textContent = JSON.stringify(hits);
});</script>"""


def hits(browser: str, book: Path, queries: list[str]) -> list[list[str]]:
    """The first three pages that the book's own search page finds for each query."""
    page = (book / "search.html").read_text(encoding="utf-8")
    base = f'<head><base href="{book.resolve().as_uri()}/">'
    script = SCRIPT.replace("QUERIES", json.dumps(queries).replace("</", "<\\/"))
    page = page.replace("<head>", base, 1).replace("</body>", f"{script}</body>")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "search.html")
        path.write_text(page, encoding="utf-8")
        profile = f"--user-data-dir={folder}/profile"
        command = [browser, *QUIET, profile, "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    found = re.search(r'<pre id="hits">(.+?)</pre>', done.stdout, re.DOTALL)
    if not found:
        sys.exit(f"==> {browser} gave no hits: {done.stderr[-500:]}")
    return json.loads(unescape(found[1]))


def main(book: Path) -> None:
    """Search for all wordings; exits with a list of those that are not found."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return print("==> The search is not checked: no Chromium here (apt-get install chromium)")
    gallery = Path(__file__).resolve().parents[2] / "notebooks" / errors.GALLERY
    asked, pasted = [], defaultdict(set)
    for entry in errors.entries(json.loads(gallery.read_text(encoding="utf-8"))):
        page = f"errors/{errors.file_name(entry.heading)}"
        for text in entry.wordings:
            asked.append((text, {page}))
            pasted[PASTED.format(text)].add(page)  # some messages have more than one cause
    asked += pasted.items()
    found = hits(browser, book, [query for query, _ in asked])
    pairs = list(zip(asked, found, strict=True))
    missed = [query for (query, pages), three in pairs if not pages.intersection(three)]
    first = sum(bool(pages.intersection(three[:1])) for (_, pages), three in pairs)
    print(f"==> {len(asked)} searches, {len(asked) - len(missed)} within three hits, {first} first")
    sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
