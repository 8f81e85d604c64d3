"""The README's table of results: made from the scoreboard, and current."""

import math

import pandas
import pytest

from maintainers import results
from maintainers.notebook_files import ROOT, series
from maintainers.pages import PageError, with_part
from blaze_utils.measure.scoreboard import COLUMNS


def test_the_readme_holds_the_table_of_the_shipped_scoreboard():
    text = results.README.read_text(encoding="utf-8")
    wanted = with_part(text, "results", results.table(results.shipped()), results.README)
    assert text == wanted, "run python -m maintainers.results"


def test_every_step_of_the_story_has_a_row():
    variants = set(results.shipped().variant)
    assert variants >= {"float, eager", "naive: does not run", "+ stubs: does not run", "+ add_relu",
                        "+ fusion", "+ calibration", "+ compact file", "QAT, 4-bit weights"}
    assert set(results.shipped().notebook) <= {path.stem for path in series()}


def test_a_row_is_rounded_and_what_was_not_measured_is_a_dash():
    rows = [["int8", "x86", 0.99612, 0.5, 0.25, 20.0, 0.2345, 188.6, "06_calibration"],
            ["naive", "x86", math.nan, math.nan, math.nan, math.nan, math.nan, 346.6, "02_naive"]]
    lines = results.table(pandas.DataFrame(rows, columns=COLUMNS)).splitlines()
    assert lines[-2] == ("| int8 | 0.996 / 0.500 / 0.250 | 0.23 | 189 | "
                         "[06](notebooks/06_calibration.ipynb) |")
    assert lines[-1] == "| naive | – | – | 347 | [02](notebooks/02_naive.ipynb) |"


@pytest.mark.parametrize("text", ["", "<!-- x:begin -->", "<!-- x:end --><!-- x:begin -->"])
def test_a_page_without_both_comments_is_named(text):
    with pytest.raises(PageError, match="README.md: expected <!-- x:begin --> and then"):
        with_part(text, "x", "content", ROOT / "README.md")
