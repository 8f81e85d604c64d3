"""The command line: `python -m blaze_utils draw / train / evaluate / detect`.

Each command is a thin wrapper around the functions that the notebooks call. Errors that a user can
mend are printed without a traceback and end with status 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import torch

from blaze_utils.checkpoint import load_float, save_float
from blaze_utils.datasets import FaceFolder, PhotoFolder, draw_dataset, read_image
from blaze_utils.detect import detect
from blaze_utils.evaluate import evaluate
from blaze_utils.files import write_atomically
from blaze_utils.model import Blaze
from blaze_utils.training import initialise, train

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "data" / "checkpoints" / "blaze_float.pth"


def draw_command(options: argparse.Namespace) -> None:
    """Draw a folder of scenes."""
    folder = draw_dataset(
        options.folder, options.count, options.seed, options.workers, options.quality
    )
    print(f"{options.folder}: {len(folder)} scenes")


def train_command(options: argparse.Namespace) -> None:
    """Draw the training scenes, train the float detector and store it beside its log and its
    recipe."""
    dataset = draw_dataset(options.data, options.scenes, options.data_seed, options.workers)
    output: Path = options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    resume = output.with_suffix(".resume")
    model = train(
        initialise(Blaze(), options.seed),
        dataset,
        options.steps,
        seed=options.seed,
        device=options.device,
        log_path=output.with_suffix(".csv"),
        resume_path=resume,
    )
    save_float(model.cpu(), output)
    recipe = {key: getattr(options, key) for key in ("scenes", "data_seed", "steps", "seed")}
    recipe |= {"torch": torch.__version__, "command": "python -m blaze_utils train"}
    write_atomically(output.with_suffix(".json"), (json.dumps(recipe, indent=2) + "\n").encode())
    resume.unlink(missing_ok=True)
    print(f"stored {output}")


def evaluate_command(options: argparse.Namespace) -> None:
    """Print the average precision on a labelled folder."""
    result = evaluate(load_float(options.checkpoint), FaceFolder(options.folder), options.long_side)
    for setting, value in result.items():
        print(f"{setting:6s} {value:.4f}")


def detect_command(options: argparse.Namespace) -> None:
    """Print the faces found in photographs, and draw them into copies if a folder is given."""
    model = load_float(options.checkpoint)
    for name, image in _images(options.images):
        found = detect(model, image, options.long_side, options.score_threshold)
        print(f"{name}: {len(found)} faces")
        for box, score in zip(found.boxes.tolist(), found.scores.tolist()):
            print("  score {:.3f}  box {:.0f} {:.0f} {:.0f} {:.0f}".format(score, *box))
            cv2.rectangle(image, *_corners(box), color=(178, 114, 0), thickness=2)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            data = cv2.imencode(".png", image)[1].tobytes()
            write_atomically(options.output / f"{Path(name).stem}.png", data)


def _corners(box: list[float]) -> tuple[tuple[int, int], tuple[int, int]]:
    x1, y1, x2, y2 = (round(value) for value in box)
    return (x1, y1), (x2, y2)


def _images(path: Path):
    """Names and images of a file or of a folder of photographs."""
    if path.is_dir():
        for sample in map(PhotoFolder(path).__getitem__, range(len(PhotoFolder(path)))):
            yield sample.name, sample.image
    else:
        yield path.name, read_image(path)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m blaze_utils", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="command")

    def command(name, function, **defaults):
        sub = commands.add_parser(
            name,
            help=function.__doc__,
            description=function.__doc__,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        sub.set_defaults(run=function, **defaults)
        return sub

    draw = command("draw", draw_command)
    draw.add_argument("folder", type=Path)
    draw.add_argument("--count", type=int, required=True, help="number of scenes")
    draw.add_argument("--seed", type=int, required=True, help="another seed draws other scenes")
    draw.add_argument("--workers", type=int, default=2, help="processes")
    draw.add_argument("--quality", type=int, default=95, help="of the JPEG files")

    fit = command("train", train_command)
    fit.add_argument(
        "--data", type=Path, default=ROOT / "data" / "train", help="where the scenes are kept"
    )
    fit.add_argument("--scenes", type=int, default=3000)
    fit.add_argument("--data-seed", type=int, default=1)
    fit.add_argument("--steps", type=int, default=4500)
    fit.add_argument(
        "--seed", type=int, default=0, help="of the weights and the order of the scenes"
    )
    fit.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    fit.add_argument("--workers", type=int, default=2, help="processes that draw scenes")
    fit.add_argument("--output", type=Path, default=CHECKPOINT)

    test = command("evaluate", evaluate_command)
    test.add_argument("folder", type=Path, nargs="?", default=ROOT / "data" / "val")
    find = command("detect", detect_command)
    find.add_argument("images", type=Path, help="an image, or a folder of them")
    find.add_argument("--output", type=Path, help="folder for copies with the faces outlined")
    find.add_argument("--score-threshold", type=float, default=0.5)
    for sub in (test, find):
        sub.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
        sub.add_argument(
            "--long-side", type=int, default=640, help="larger images are reduced to it"
        )
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
