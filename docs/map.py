"""Draw the rooms of ``blaze_utils`` and who imports whom, from the code, into ``docs/map.svg``.

python docs/map.py
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from blaze_utils import ROOMS  # noqa: E402

PACKAGE, PICTURE = ROOT / "blaze_utils", Path(__file__).with_suffix(".svg")


def tree(path: Path) -> ast.Module:
    """Parse a file, or the ``__init__`` of a folder."""
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """List the dotted names of the package that a file imports, also inside its functions."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*here, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("blaze_utils.")}


def arrows() -> set[tuple[str, str]]:
    """List the pairs of rooms (or files beside them) of which the first imports from the second."""
    pairs = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        pairs |= {(room, name.split(".")[1]) for name in imports(path)}
    return {(room, other) for room, other in pairs if room != other}


def svg() -> str:
    """Draw the rooms as a column, the first at the bottom, with an arc for every arrow."""
    top = {room: 12 + 44 * (len(ROOMS) - 1 - place) for place, room in enumerate(ROOMS)}
    parts = []
    for room, y in top.items():
        about = (ast.get_docstring(tree(PACKAGE / room)) or "").splitlines()[0].replace("`", "")
        parts.append(f'<rect x="10" y="{y}" width="640" height="34" rx="5"/>')
        parts.append(f'<text x="20" y="{y + 22}" font-weight="bold">{room}</text>')
        parts.append(f'<text x="105" y="{y + 22}">{about}</text>')
    for room, other in sorted(arrows()):
        start, end = top[room] + 22, top[other] + 12
        reach = 650 + (end - start) * 0.5
        parts.append(f'<path d="M650 {start} C{reach:.0f} {start} {reach:.0f} {end} 656 {end}"/>')
        parts.append(f'<path class="head" d="M650 {end} l8 -4 v8z"/>')
    style = "rect{fill:#eef3f8;stroke:#567}path{fill:none;stroke:#567}.head{fill:#567}"
    size = f'viewBox="0 0 800 {12 + 44 * len(ROOMS)}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>'
    return "\n".join([head, *parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8", newline="\n")
