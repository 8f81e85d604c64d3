"""Figures whose digits are not compared: ``approx`` writes them, ``sanitize.cfg`` knows them."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from blaze_utils.measure import approx

SANITIZE = Path(__file__).parents[1] / "sanitize.cfg"


@pytest.mark.parametrize(
    "value, digits, text",
    [
        (0.8736, 3, "≈ 0.874"),
        (-2.5, 1, "≈ -2.5"),
        (np.float32(1234.5), 2, "≈ 1234.50"),
        (np.nan, 3, "≈ nan"),
        (np.inf, 3, "≈ inf"),
        (12, 3, 12),
        (True, 3, True),
        ("text", 3, "text"),
        (None, 3, None),
        ({"easy": 0.25, "faces": 3}, 1, {"easy": "≈ 0.2", "faces": 3}),
    ],
)
def test_floats_become_text_and_all_else_stays(value, digits, text):
    assert approx(value, digits) == text


def table(milliseconds, ap=0.91):
    columns = {"arm": ["float", "int8"], "ms": milliseconds, "AP": [ap, np.nan], "runs": [20, 4]}
    return pd.DataFrame(columns).set_index("arm")


def test_tables_keep_their_axes_and_their_integers():
    original = table([12.25, 9.5])
    written = approx(original, 1)
    assert written.index.equals(original.index) and list(written.columns) == ["ms", "AP", "runs"]
    assert written.values.tolist() == [["≈ 12.2", "≈ 0.9", 20], ["≈ 9.5", "≈ nan", 4]]
    assert written.runs.dtype == original.runs.dtype and original.ms["int8"] == 9.5
    assert approx(original.runs).equals(original.runs)
    assert approx(original.ms).tolist() == ["≈ 12.250", "≈ 9.500"]


def sanitized(text):
    """As nbval does it: each ``regex:`` with its ``replace:``, in turn."""
    for rule in re.findall(r"^regex: (.*)\nreplace: (.*)$", SANITIZE.read_text("utf-8"), re.M):
        text = re.sub(rule[0], rule[1], text)
    return text


@pytest.mark.parametrize("form", [repr, lambda shown: shown._repr_html_()])
@pytest.mark.parametrize("other", [[10.2, 9.8], [9.8, 10.2], [9.8, 9.8], [-1.5, 1e5], [np.inf, 0]])
def test_the_rule_hides_the_digits_and_how_many_there_are(form, other):
    stored = form(approx(table([10.2, 110.2]), 1))
    assert sanitized(form(approx(table(other, ap=0.04), 1))) == sanitized(stored)
    assert "10.2" in stored and "10.2" not in sanitized(stored)


@pytest.mark.parametrize("form", [repr, lambda series: series.to_string()])
def test_the_rule_knows_a_series_too(form):
    stored, other = [approx(table(times).ms) for times in ([10.2, 9.8], [9.8, 10.2])]
    assert sanitized(form(stored)) == sanitized(form(other))


def test_what_is_exact_is_compared():
    changed = approx(table([10.2, 9.8])).assign(runs=[20, 5])
    assert sanitized(repr(changed)) != sanitized(repr(approx(table([10.2, 9.8]))))
