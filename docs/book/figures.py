"""Draw and print what the prose pages show: ``.venv/bin/python docs/book/figures.py``."""

import contextlib
import io
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

PAGES, ROOT = Path(__file__).resolve().parent / "pages", Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from blaze_utils import plots  # noqa: E402
from maintainers.scenes import scene as scenes  # noqa: E402
from maintainers.scenes.head import draw_head  # noqa: E402
from maintainers.scenes.look import View, random_look  # noqa: E402

SCENE, SEED, SIZE, PERSON = 15, 2, (256, 320), 11
LAMP, WHITE = np.array([0.4, -0.5, 0.77]), np.ones(3, np.float32)


def stages() -> plt.Figure:
    """Draw the background, the people before it, the photograph; and one head from five sides."""
    rng = np.random.default_rng([SEED, SCENE])
    canvas = scenes.draw_background(rng, *(scenes.OVERSAMPLING * side for side in SIZE))
    images = [canvas.astype(np.uint8)]
    scenes._draw_people(rng, canvas, np.zeros(canvas.shape[:2], np.int32), SIZE)
    image, labels = scenes.draw_scene(SCENE, SEED, SIZE)
    images += [canvas.astype(np.uint8), image]
    figure = plt.figure(figsize=(9, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, 15)
    titles = "what stands behind", "people, back to front", "photographed and labelled"
    for place, (shown, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(grid[0, 5 * place : 5 * place + 5])
        plots.show_image(axes, shown, title)
    plots.draw_truth(axes, labels.select(labels.occlusion < 0.9), landmarks=True)
    look = random_look(np.random.default_rng(PERSON))
    for place, yaw in enumerate((-1.4, -0.7, 0.0, 0.7, 1.4)):
        view = View(yaw, 0.0, 0.0, LAMP, 0.5, WHITE)
        head = draw_head(np.random.default_rng(PERSON), look, view, 150)
        shown = 255 + (head.image - 255) * head.alpha[..., None]
        axes = figure.add_subplot(grid[1, 3 * place : 3 * place + 3])
        plots.show_image(axes, shown.astype(np.uint8), f"yaw {yaw}")
        plots.draw_landmarks(axes, head.landmarks[None])
    return figure


def printed(page: str) -> str:
    """Run a page's blocks of Python, one after the other, and put what they print below them."""
    names: dict = {}

    def run(block: re.Match) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(block[2], "block.py", "exec"), names)
        return f"{block[1]}\n\n```text\n{said.getvalue()}```"

    return re.sub(r"(```python\n(.+?)```)\n\n```text\n.*?```", run, page, flags=re.DOTALL)


if __name__ == "__main__":
    stages().savefig(PAGES / "scene.jpg", dpi=110, pil_kwargs={"quality": 85})
    for path in PAGES.glob("*.md"):
        path.write_text(printed(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
