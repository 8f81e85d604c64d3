"""Train the float detector: how ``data/checkpoints/blaze_float.pth`` was made.

    make scenes && python maintainers/train.py --output build/mine.pth      29 minutes on 2 cores
    torchrun --nproc-per-node 2 maintainers/train.py --output build/mine.pth

A run is a function of its settings and seed: the batch that a step sees depends on (seed, step)
alone. If it is killed, the same command goes on where it last saved (FILE.resume).

Several processes each take a share of the batch size and images of their own; gradients are
averaged, batch norms see their own share, and the first process logs and saves.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from blaze_utils.data import FaceFolder
from blaze_utils.detector import Blaze, load_float, save_float
from blaze_utils.training import TrainingBatches, TrainingRun, batch_loader
from blaze_utils.training.run import LOG_COLUMNS

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ("steps", "batch_size", "peak_lr", "seed", "processes")


def initialise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a ``Blaze`` its starting weights, in place, the same for the same seed; return it.

    Kaiming normal for convolutions, the last layer of each head near 0 (0.02), and class biases
    (+2, -2): at first nearly every prior is background, as nearly every prior should be.
    """
    generator = torch.Generator().manual_seed(seed)
    kaiming = {"nonlinearity": "relu", "generator": generator}
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            mode = "fan_out" if module.groups == 1 else "fan_in"
            nn.init.kaiming_normal_(module.weight, mode=mode, **kaiming)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for head in (*model.loc, *model.conf, *model.landm):
        nn.init.normal_(head[-1].weight, std=0.02, generator=generator)
    for head in model.conf:
        head[-1].bias.data.copy_(torch.tensor([2.0, -2.0]).repeat(len(head[-1].bias) // 2))
    return model


def join(device: str) -> tuple[str, int, int]:
    """Join the processes of ``torchrun``, if any; give device, rank and number of processes."""
    if not dist.is_torchelastic_launched():
        return device, 0, 1
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    return device, dist.get_rank(), dist.get_world_size()


def train(options: argparse.Namespace) -> None:
    """Train; store the checkpoint with its log (.csv) and its recipe (.json) beside it."""
    device, rank, options.processes = join(options.device)
    torch.manual_seed(options.seed)
    model = load_float(options.start) if options.start else initialise(Blaze(), options.seed)
    model = model.to(device, memory_format=torch.channels_last).train()
    run = TrainingRun(model, options.steps, peak_lr=options.peak_lr)
    recipe = {name: getattr(options, name) for name in RECIPE}
    resume = options.output.with_suffix(".resume")
    if resume.exists():
        stored = torch.load(resume, map_location="cpu", weights_only=True)
        if stored.pop("recipe") != recipe:
            sys.exit(f"==> {resume} belongs to a run with other settings: remove it to begin anew")
        run.load_state_dict(stored)
    if options.processes > 1:
        run.network = DistributedDataParallel(model)
    share, seed = options.batch_size // options.processes, options.seed * options.processes + rank
    batches = TrainingBatches(FaceFolder(options.data), share, seed)
    loader = batch_loader(batches, range(run.step, options.steps), options.loaders)
    bar = tqdm(loader, initial=run.step, total=options.steps, unit="step", disable=rank > 0)
    for batch in bar:
        run.advance(batch)
        if run.step % 50 == 0 or run.step == options.steps:
            run.add_row()
            bar.set_postfix(loss=f"{run.rows[-1][1]:.3f}")
        if rank == 0 and (run.step % 100 == 0 or run.step == options.steps):
            part = resume.with_suffix(".part")
            torch.save({"recipe": recipe, **run.state_dict()}, part)
            part.replace(resume)
    if rank == 0:
        recipe |= {"data": options.data.name, "torch": torch.__version__}
        options.output.with_suffix(".json").write_text(json.dumps(recipe, indent=2) + "\n")
        log = pd.DataFrame(run.rows, columns=LOG_COLUMNS)
        log.to_csv(options.output.with_suffix(".csv"), index=False, float_format="%.6g")
        save_float(run.averaged.module.eval().cpu(), options.output)
        resume.unlink()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=ROOT / "data" / "train", help="images and their label.txt")
    add("--start", type=Path, help="float checkpoint to start from (else anew)")
    add("--steps", type=int, default=4500)
    add("--batch-size", type=int, default=16, help="images a step, of all processes together")
    add("--peak-lr", type=float, default=4e-3, help="highest learning rate")
    add("--seed", type=int, default=0, help="of new weights and of the batches")
    add("--device", default="cpu", help="cpu, cuda, mps; under torchrun cpu or cuda")
    add("--loaders", type=int, default=1, help="processes that prepare batches")
    add("--output", type=Path, default=ROOT / "build" / "blaze_float.pth")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        sys.exit(f"==> {options.data}: no such folder; 'make scenes' draws data/train")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    train(options)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
