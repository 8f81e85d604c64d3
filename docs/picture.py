"""Draw the README's picture: a drawn scene and a real face, in float, the article's int8, and ours.

    python docs/picture.py      writes docs/picture.jpg, and the table into README.zh-CN.md

Both follow the README's table: run it after ``maintainers/results.py`` has written that, as `make
notebooks` does. Its models are drawn, left to right float; int8 as the article made it; int8 fused
and calibrated, for the default engine of this machine. The scene is one of ``data/val``; the photo
is the portrait of Grace Hopper that matplotlib ships (James S. Davis, U.S. Navy; public domain).
"""

import re
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.cbook import get_sample_data

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from blaze_utils import int8, plots  # noqa: E402
from blaze_utils.data import FaceFolder, read_image  # noqa: E402
from blaze_utils.detector import detect, load_float  # noqa: E402
from maintainers.results import FLOAT, README, REFERENCE, article, eager  # noqa: E402
from maintainers.tables import with_part  # noqa: E402

PICTURE, CHINESE_README = Path(__file__).with_suffix(".jpg"), ROOT / "README.zh-CN.md"
SCENE = 276
# What is shown of both; all of them is searched.
SCENE_ROWS, FACE_ROWS = (256, 36), (350, 30)
TOP, BETWEEN, BOTTOM, SIDE, WIDTH = 34, 6, 32, 6, 1100  # pixels
# How the rows of the three columns begin in the table: ours goes on with the engine.
ROWS = {"float": REFERENCE, "int8 as in the article": "int8 as in the article"}
ROWS |= {"int8, fused and calibrated": "the same on "}


# The heads and names of the table's rows in Chinese; a name that is not here stays as it is.
CHINESE = {
    r"hard − float": "hard − 浮点",
    r"(\d) threads?": r"\1 线程",
    r"float, fused and frozen": "浮点，融合并冻结",
    r"float, eager": "浮点，eager",
    r"int8 as in the article": "文章的 int8",
    r"fused, calibrated": "int8，融合并校准",
    r"the same on (\w+), frozen": r"同上，\1 引擎，冻结",
    r"PT2E, compiled": "PT2E，编译",
    r"on (\w+), additions fused, frozen": r"\1 引擎，相加也融合，冻结",
}


def results(page: str) -> str:
    """Cut the table of results out of a page."""
    return page.split("<!-- results:begin -->\n")[1].split("<!-- results:end -->")[0]


def in_chinese(table: str) -> str:
    """Give the table with its heads and the names of its rows in Chinese, its figures untouched."""
    for name, chinese in CHINESE.items():
        table = re.sub(rf"(?<=\| ){name}(?= \|)", chinese, table)
    return table.rstrip("\n")


def figures(page: str) -> dict[str, list[str]]:
    """Read hard AP, KB and time with one thread of the three rows from the README's table."""
    found = {}
    for title, row in ROWS.items():
        line = re.search(rf"^\| {re.escape(row)}.*$", results(page), flags=re.MULTILINE)
        if line is None:
            raise ValueError(f"README.md: no row of the results begins with {row!r}")
        cells = [cell.strip() for cell in line[0].strip("| ").split("|")]
        found[title] = [cells[1].split(" / ")[2], cells[4], cells[5]]
    return found


def columns() -> dict[str, torch.nn.Module]:
    """Make the three detectors; ours for the default engine of this machine."""
    return {
        "float": load_float(FLOAT),
        "int8 as in the article": article(),
        "int8, fused and calibrated": eager(int8.default_engine()),
    }


def translate() -> None:
    """Put the table into the Chinese README."""
    text, table = CHINESE_README.read_text("utf-8"), results(README.read_text("utf-8"))
    text = with_part(text, "results", in_chinese(table))
    CHINESE_README.write_text(text, encoding="utf-8", newline="\n")


def draw() -> None:
    """Draw the picture."""
    measured = figures(README.read_text("utf-8"))
    scene = FaceFolder(ROOT / "data" / "val")[SCENE].image
    photo = read_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
    wide = (WIDTH - 2 * SIDE - 2 * BETWEEN) / 3
    heights = [
        wide * (rows[0] - rows[1]) / image.shape[1]
        for rows, image in ((SCENE_ROWS, scene), (FACE_ROWS, photo))
    ]
    high = TOP + sum(heights) + BETWEEN + BOTTOM
    figure, axes = plt.subplots(
        2, 3, figsize=(WIDTH / 100, high / 100), dpi=100, height_ratios=heights
    )
    borders = {"left": SIDE / WIDTH, "right": 1 - SIDE / WIDTH, "wspace": BETWEEN / wide}
    borders |= {
        "bottom": BOTTOM / high,
        "top": 1 - TOP / high,
        "hspace": 2 * BETWEEN / sum(heights),
    }
    figure.subplots_adjust(**borders)
    for column, (title, model) in enumerate(columns().items()):
        colour = plots.FLOAT if title == "float" else plots.INT8
        for ax, image in zip(axes[:, column], (scene, photo), strict=True):
            found = detect(model, image)
            plots.show_image(ax, image)
            plots.draw_detections(ax, found, colour)
        axes[0, column].set_title(title, fontsize=14, fontweight="bold", color=colour)
        axes[0, column].set_ylim(SCENE_ROWS)
        axes[1, column].set_ylim(FACE_ROWS)
        ap, kilobytes, time = measured[title]
        text = f"hard AP {ap}    time × {time}    {kilobytes} KB"
        axes[1, column].set_xlabel(text, fontsize=13, color=colour, labelpad=5)
    # The figures go into the file as a comment too: a test compares them with the table.
    figure.savefig(PICTURE, pil_kwargs={"quality": 85, "comment": str(measured)})


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # what PyTorch deprecates is the series' subject
    translate()
    draw()
