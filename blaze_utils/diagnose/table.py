"""Findings as a table, for a terminal and for a notebook."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .finding import Finding

WIDTH = 100
NAMES = 3
"""So many modules of a group are named; of a larger one the first two and the last."""
FIX_LINES = 8
"""A longer fix is cut in the table; ``finding.fix`` has all of it."""


def grouped(findings: Iterable[Finding]) -> list[tuple[Finding, list[str]]]:
    """Findings that differ in the module only as one: the first of them, and all their modules."""
    groups: dict[tuple[str, str, str], tuple[Finding, list[str]]] = {}
    for found in findings:
        key = (found.code, found.explanation, found.fix)
        groups.setdefault(key, (found, []))[1].append(found.module or "(model)")
    return list(groups.values())


def where(modules: list[str]) -> str:
    """The modules of a group in a few words: ``conv2, conv3, ... conv12 (11 modules)``."""
    if len(modules) <= NAMES:
        return ", ".join(modules)
    return f"{modules[0]}, {modules[1]}, ... {modules[-1]} ({len(modules)} modules)"


def shortened(fix: str) -> str:
    """The first lines of a fix, and how many more there are."""
    lines = fix.splitlines()
    if len(lines) <= FIX_LINES:
        return fix
    return "\n".join([*lines[: FIX_LINES - 1], f"... {len(lines) - FIX_LINES + 1} more lines"])


class _Wrapper(textwrap.TextWrapper):
    """Also breaks behind the dots of long module names."""

    wordsep_re = re.compile(r"(\s+|(?<=\.)(?=\w))")


def as_text(title: str, findings: Iterable[Finding]) -> str:
    """A table for a terminal, ``WIDTH`` columns wide: code, module, explanation; below, the fix."""
    lines = [title]
    code_width, where_width = 23, 26
    for found, modules in grouped(findings):
        columns = [
            [found.code],
            _Wrapper(where_width - 1).wrap(where(modules)),
            textwrap.wrap(
                f"{found.explanation} [{found.notebook}]", WIDTH - code_width - where_width
            ),
        ]
        lines.append("-" * WIDTH)
        for number in range(max(map(len, columns))):
            code, module, what = (column[number:] or [""] for column in columns)
            lines.append(f"{code[0]:{code_width}}{module[0]:{where_width}}{what[0]}".rstrip())
        lines.append(textwrap.indent(shortened(found.fix), "    "))
    return "\n".join(lines)


def as_html(title: str, findings: Iterable[Finding]) -> str:
    """A table for a notebook, the notebooks linked as its neighbours."""
    rows = []
    for found, modules in grouped(findings):
        cells = (
            f"<code>{escape(found.code)}</code>",
            escape(where(modules)),
            escape(found.explanation),
            f"<pre>{escape(shortened(found.fix))}</pre>",
            f'<a href="{found.notebook}.ipynb">{escape(found.notebook)}</a>',
        )
        rows.append("".join(f'<td style="text-align:left">{cell}</td>' for cell in cells))
    if not rows:
        return f"<p>{escape(title)}</p>"
    head = "".join(
        f'<th style="text-align:left">{name}</th>'
        for name in ("code", "module", "explanation", "fix", "notebook")
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<p>{escape(title)}</p>\n<table>\n<tr>{head}</tr>\n{body}\n</table>"
