"""Parts of a Markdown page that a command writes, between two comments that stay.

``<!-- results:begin -->`` and ``<!-- results:end -->`` enclose the part called ``results``.
"""

from __future__ import annotations

from pathlib import Path


class PageError(ValueError):
    """A page without the comments that say where a part goes; the message names the page."""


def with_part(text: str, name: str, content: str, page: Path) -> str:
    """The text of a page with ``content`` as its part ``name``; ``page`` is for the message.

    Raises:
        PageError: the page does not have both comments, once each, in this order.
    """
    begin_mark, end_mark = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end or begin_mark in rest or end_mark in after:
        raise PageError(f"{page}: expected {begin_mark} and then {end_mark}, once each")
    return f"{before}{begin_mark}\n{content}\n{end_mark}{after}"
