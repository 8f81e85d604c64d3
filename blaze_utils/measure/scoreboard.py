"""The table that the series fills in: one row for each variant of the detector.

    python -m blaze_utils.measure.scoreboard        prints it

A notebook records its variants as it runs, into `build/scoreboard.csv`: the reader's own numbers.
`data/scoreboard.csv` holds ours, and stands in for the notebooks that have not been run yet.
"""
from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas

from blaze_utils.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "build" / "scoreboard.csv"
SHIPPED = ROOT / "data" / "scoreboard.csv"


class ScoreboardError(ValueError):
    """A row or a file that is not a scoreboard; the message names the file, line and column."""


@dataclass(frozen=True)
class Row:
    """One variant of the detector. NaN stands for "not measured".

    `variant` is the row's key and `notebook` the stem of the notebook that measured it, such as
    `01_float_baseline`. `engine` is the quantized engine, `-` for float. AP is 0..1 on `data/val`.
    `latency_ms` is the median time of one forward pass; `latency_ratio` is that divided by the time
    of float eager in the same run (below 1: faster). `kilobytes` is the stored size (1024 bytes).
    """

    variant: str
    engine: str
    ap_easy: float
    ap_medium: float
    ap_hard: float
    latency_ms: float
    latency_ratio: float
    kilobytes: float
    notebook: str

    def __post_init__(self) -> None:
        for name in ("variant", "engine", "notebook"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ScoreboardError(f"{name}: expected a text that is not empty, got {value!r}")
        for name in ("ap_easy", "ap_medium", "ap_hard"):
            value = getattr(self, name)
            if not (math.isnan(value) or 0 <= value <= 1):
                raise ScoreboardError(f"{name}: expected 0 to 1, or NaN, got {value}")
        for name in ("latency_ms", "latency_ratio", "kilobytes"):
            value = getattr(self, name)
            if not (math.isnan(value) or 0 < value < math.inf):
                raise ScoreboardError(f"{name}: expected a positive number, or NaN, got {value}")


COLUMNS = [field.name for field in fields(Row)]
TEXTS = ("variant", "engine", "notebook")


def record(variant: str, *, notebook: str, engine: str = "-", ap: Mapping[str, float],
           latency_ms: float, latency_ratio: float, kilobytes: float) -> None:
    """Write one variant into `build/scoreboard.csv`, in place of its earlier row if it has one.

    `ap` has the keys easy, medium and hard, as `evaluate` returns them; the rest is as in `Row`.
    Raises `ScoreboardError` for a value out of range.
    """
    if set(ap) != {"easy", "medium", "hard"}:
        raise ScoreboardError(f"ap: expected the keys easy, medium and hard, got {sorted(ap)}")
    row = Row(variant, engine, *(float(ap[key]) for key in ("easy", "medium", "hard")),
              float(latency_ms), float(latency_ratio), float(kilobytes), notebook)
    write_rows(OWN, merge(read_rows(OWN), [row]))


def load() -> pandas.DataFrame:
    """The scoreboard: a row for each variant, the reader's own where there is one, else ours.

    Columns as in `Row`, rows by notebook and in the order recorded; no rows if none has been
    recorded or shipped. Raises `ScoreboardError` for a broken file.
    """
    rows = merge(read_rows(SHIPPED), read_rows(OWN))
    return pandas.DataFrame([asdict(row) for row in rows], columns=COLUMNS)


def forget(notebook: str) -> None:
    """Remove the reader's own rows of one notebook, so that its next run starts clean."""
    if OWN.exists():
        write_rows(OWN, [row for row in read_rows(OWN) if row.notebook != notebook])


def publish(executed: Iterable[str], existing: Iterable[str]) -> None:
    """Make `data/scoreboard.csv` of our newest numbers: what `make notebooks` ends with.

    The rows of the notebooks just `executed` come from `build/`; those of other `existing`
    notebooks stay as they are, and those of notebooks that are gone go.
    """
    executed = set(executed)
    others = set(existing) - executed
    kept = [row for row in read_rows(SHIPPED) if row.notebook in others]
    new = [row for row in read_rows(OWN) if row.notebook in executed]
    write_rows(SHIPPED, merge(kept, new))


def merge(rows: Iterable[Row], newer: Iterable[Row]) -> list[Row]:
    """Rows by notebook, a newer one in place of the older one of the same variant."""
    by_variant = {row.variant: row for row in rows}
    by_variant.update((row.variant, row) for row in newer)
    return sorted(by_variant.values(), key=lambda row: row.notebook)


def as_text(value: float) -> str:
    """A number as the files hold it: four decimals at most, NaN empty."""
    return "" if math.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".")


def read_rows(path: Path) -> list[Row]:
    """The rows of a scoreboard file, none if it does not exist. Raises `ScoreboardError`."""
    if not path.exists():
        return []
    try:
        lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
        header = next(lines, None)
        if header != COLUMNS:
            raise ScoreboardError(f"expected the columns {','.join(COLUMNS)}, got {header}")
        rows = [_parse(cells, lines.line_num) for cells in lines]
        if len({row.variant for row in rows}) < len(rows):
            raise ScoreboardError("a variant stands in it twice")
        return rows
    except (csv.Error, UnicodeDecodeError, ScoreboardError) as error:
        raise ScoreboardError(f"{path}: not a scoreboard: {error}") from error


def _parse(cells: list[str], line: int) -> Row:
    if len(cells) != len(COLUMNS):
        raise ScoreboardError(f"line {line}: expected {len(COLUMNS)} columns, got {len(cells)}")
    values: list[str | float] = []
    for name, cell in zip(COLUMNS, cells):
        try:
            values.append(cell if name in TEXTS else float(cell or "nan"))
        except ValueError:
            raise ScoreboardError(f"line {line}: {name}: not a number: {cell!r}") from None
    try:
        return Row(*values)
    except ScoreboardError as error:
        raise ScoreboardError(f"line {line}: {error}") from None


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a scoreboard file, whole or not at all; its folder is made if need be."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([value if isinstance(value, str) else as_text(value)
                         for value in asdict(row).values()])
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, text.getvalue().encode("utf-8"))


def main() -> None:
    """Print the scoreboard."""
    table = load()
    if table.empty:
        print("The scoreboard is empty: run notebook 01 first.")
    else:
        print(table.to_string(index=False, na_rep="-", float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
