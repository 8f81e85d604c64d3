"""Figures that differ a little from one processor to the next, as the notebooks print them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def approx(value: Any, digits: int = 3) -> Any:
    """Write every float as text with a sign in front: 0.8736 becomes ``"≈ 0.874"``.

    The sign tells the reader that the digits may differ on another machine, and ``make test`` not
    to compare them (``tests/sanitize.cfg``). Assert a bound on the figure in the same cell. Keep
    tables well below 80 characters: pandas wraps wider ones, and where depends on the digits.

    Args:
        value: a number, or a Series, DataFrame or mapping of them; its axes stay as they are.
        digits: decimals.

    Returns:
        The same with texts for floats (Python's and numpy's, NaN too); all else is left alone.
    """
    if isinstance(value, pd.DataFrame | pd.Series):
        return value.astype(object).map(lambda entry: approx(entry, digits))
    if isinstance(value, Mapping):
        return {key: approx(entry, digits) for key, entry in value.items()}
    if isinstance(value, float | np.floating):
        return f"≈ {value:.{digits}f}"
    return value
