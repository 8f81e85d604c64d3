"""``train``: train the float detector, in one process or in several under ``torchrun``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch.utils.data import Dataset

from blaze_utils.training import processes
from blaze_utils.detector.checkpoint import load_float, save_float
from blaze_utils.data.datasets import FaceFolder, draw_dataset, open_dataset
from maintainers.drawing import RECIPE_FILE
from blaze_utils.files import write_atomically
from blaze_utils.detector.model import Blaze
from maintainers.train import initialise, train

from .common import BUILD, DATA, prepare_output, report, two_columns, whole_number

HELP = "train the float detector on drawn scenes or on your own labelled images"
EXAMPLE = "train --data my_faces --steps 2000 --output build/mine.pth"
MORE = """
If it is killed, the same command goes on where it last saved (FILE with the suffix .resume).
On several processes, each with its share of every batch:

  torchrun --nproc-per-node 2 -m blaze_utils train --output build/mine.pth
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add, positive = parser.add_argument, whole_number(1)
    add("--data", type=Path, default=DATA / "train", metavar="FOLDER",
        help="labelled images of your own; if it is missing, scenes are drawn into it")
    add("--scenes", type=positive, default=3000, help="number of scenes to draw")
    add("--data-seed", type=whole_number(0), default=1, help="of the scenes")
    add("--workers", type=positive, default=2, help="processes that draw scenes")
    add("--loaders", type=whole_number(0), default=1,
        help="processes that prepare batches, for each process that trains")
    add("--start", type=Path, metavar="FILE", help="float checkpoint to start from (else anew)")
    add("--steps", type=positive, default=4500)
    add("--batch-size", type=positive, default=16, help="images a step, of all processes together")
    add("--peak-lr", type=float, default=4e-3, help="highest learning rate")
    add("--seed", type=whole_number(0), default=0, help="of new weights and of the batches")
    add("--device", default="cpu", help="cpu, cuda, mps; under torchrun cpu or cuda")
    add("--save-every", type=positive, default=100, metavar="STEPS",
        help="how often to save what a killed run goes on from")
    add("--output", type=Path, default=BUILD / "blaze_float.pth", metavar="FILE",
        help="the checkpoint; its log (.csv) and recipe (.json) come beside it")


def run(options: argparse.Namespace) -> int:
    """Train, then store the checkpoint, its log and its recipe."""
    output = prepare_output(options.output)
    with processes.group(options.device) as device:
        model = Blaze() if options.start is None else load_float(options.start)
        model = model if options.start else initialise(model, options.seed)
        dataset = _dataset(options)
        model = train(
            model, dataset, options.steps, batch_size=options.batch_size, peak_lr=options.peak_lr,
            seed=options.seed, device=device, num_workers=options.loaders,
            log_path=output.with_suffix(".csv"), resume_path=output.with_suffix(".resume"),
            save_every=options.save_every,
        )
        if processes.is_first():
            save_float(model.cpu(), output)
            recipe = _recipe(options, dataset)
            text = json.dumps(recipe, indent=2) + "\n"
            write_atomically(output.with_suffix(".json"), text.encode())
            output.with_suffix(".resume").unlink(missing_ok=True)
            _report(options, output, recipe)
    return 0


def _is_drawn(options: argparse.Namespace) -> bool:
    """Whether the data are scenes, drawn already or not; a folder of the reader's has no recipe."""
    folder: Path = options.data
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    return empty or (folder / RECIPE_FILE).is_file()


def _dataset(options: argparse.Namespace) -> Dataset:
    """Scenes, drawn by the first process while the others wait, or the reader's own images."""
    if processes.is_first() and _is_drawn(options):
        draw_dataset(options.data, options.scenes, options.data_seed, options.workers)
    processes.wait()
    return FaceFolder(options.data) if _is_drawn(options) else open_dataset(options.data)


def _recipe(options: argparse.Namespace, dataset: Dataset) -> dict[str, object]:
    """What makes the run what it is."""
    if _is_drawn(options):
        recipe = {"scenes": options.scenes, "data_seed": options.data_seed}
    else:
        recipe = {"data": str(options.data), "images": len(dataset)}
    if options.start is not None:
        recipe["start"] = str(options.start)
    recipe |= {name: getattr(options, name) for name in ("steps", "batch_size", "peak_lr", "seed")}
    recipe |= {"processes": processes.count(), "torch": torch.__version__}
    return recipe | {"command": "python -m blaze_utils train"}


def _report(options: argparse.Namespace, output: Path, recipe: dict[str, object]) -> None:
    names, *_, last = output.with_suffix(".csv").read_text(encoding="utf-8").splitlines()
    row = dict(zip(names.split(","), last.split(",")))
    result = {"checkpoint": str(output), "loss": float(row["loss"]),
              "seconds": float(row["seconds"]), **recipe}
    shown = {"checkpoint": result["checkpoint"], "steps": row["step"], "last loss": row["loss"],
             "seconds": row["seconds"]}
    report(result, two_columns(shown), options.json)
