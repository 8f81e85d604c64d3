"""The table of results in the README, made from `data/scoreboard.csv`.

    python -m maintainers.results        writes it anew

`make notebooks` ends with it, and a test compares the README with it.
"""

from __future__ import annotations

import sys

import pandas

from blaze_utils.files import write_atomically
from maintainers.notebooks import ROOT
from maintainers.pages import PageError, with_part
from blaze_utils.measure.scoreboard import COLUMNS, SHIPPED, ScoreboardError, read_rows

README = ROOT / "README.md"

HEAD = """\
| step | AP easy / medium / hard | time, float eager = 1 | KB | notebook |
| --- | :---: | ---: | ---: | --- |"""

# What the article reports of itself: its AP is one number, its 23 ms of a CPU stand against 4 of a GPU.
ARTICLE = "| *the article, as it tells it* | 0.0000001 | 23 ms, not 4 | 384, not 785 | |"


def table(board: pandas.DataFrame) -> str:
    """A scoreboard, with the columns of `scoreboard.load`, as a Markdown table for the README.

    One row for each variant that the notebooks recorded, in their order, after the article's own.
    """
    return "\n".join([HEAD, ARTICLE, *(_line(row) for row in board.itertuples(index=False))])


def _line(row) -> str:
    ap = [value for value in (row.ap_easy, row.ap_medium, row.ap_hard) if value == value]
    cells = [
        row.variant,
        " / ".join(f"{value:.3f}" for value in ap) or "–",
        f"{row.latency_ratio:.2f}" if row.latency_ratio == row.latency_ratio else "–",
        f"{row.kilobytes:.0f}",
        f"[{row.notebook[:2]}](notebooks/{row.notebook}.ipynb)",
    ]
    return "| " + " | ".join(cells) + " |"


def shipped() -> pandas.DataFrame:
    """The rows of `data/scoreboard.csv`; a reader's own results do not get into the README."""
    return pandas.DataFrame([vars(row) for row in read_rows(SHIPPED)], columns=COLUMNS)


def main() -> int | str:
    """Write the table into the README; returns the exit status, or a message for stderr."""
    try:
        text = README.read_text(encoding="utf-8")
        write_atomically(
            README, with_part(text, "results", table(shipped()), README).encode("utf-8")
        )
    except (PageError, ScoreboardError, OSError) as error:
        return f"==> {error}"
    print(f"==> {README.name}: the results of {SHIPPED.relative_to(ROOT).as_posix()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
