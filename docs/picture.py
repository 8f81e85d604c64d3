"""Draw the README's picture: a drawn scene and a real face, in float, the article's int8, and ours.

    python docs/picture.py      writes docs/picture.jpg

The models are those of ``maintainers/results.py``, and the figures under them are read from the
README's table, which it has written. Left to right: float; int8 as the article made it; int8 fused
and calibrated, by the engine of this machine. The scene is one of ``data/val``; the photograph is
the portrait of Grace Hopper that matplotlib ships (James S. Davis, U.S. Navy; public domain).
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
from maintainers.results import FLOAT, REFERENCE, article, eager  # noqa: E402

PICTURE = Path(__file__).with_suffix(".jpg")
SCENE = 276
# What is shown of both; all of them is searched.
SCENE_ROWS, FACE_ROWS = (256, 36), (350, 30)
TOP, BETWEEN, BOTTOM, SIDE, WIDTH = 34, 6, 32, 6, 1100  # pixels
# In the table the rows of the three columns begin so: the name of ours ends with the engine's.
ROWS = {"float": REFERENCE, "int8 as in the article": "int8 as in the article"}
ROWS |= {"int8, fused and calibrated": "the same on "}


def figures(page: str) -> dict[str, list[str]]:
    """Read hard AP, KB and time with one thread of the three rows from the README's table."""
    part = page.split("<!-- results:begin -->")[1].split("<!-- results:end -->")[0]
    found = {}
    for title, row in ROWS.items():
        line = re.search(rf"^\| {re.escape(row)}.*$", part, flags=re.MULTILINE)
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


def main() -> None:
    """Draw the picture."""
    warnings.filterwarnings("ignore")  # what PyTorch deprecates is the series' subject
    measured = figures((ROOT / "README.md").read_text(encoding="utf-8"))
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
    figure.savefig(PICTURE, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()
