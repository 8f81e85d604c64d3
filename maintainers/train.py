"""The training loop: for the float baseline, and later for quantization-aware training.

A run is a function of its settings and seed: the batch that a step sees depends on (seed, step)
alone (``batches.py``), so that a killed run goes on where it was last saved as if nothing had
happened. The recipe (AdamW, one cycle, weight averaging) trained the shipped checkpoint.

Several processes (``processes.group``, ``torchrun``) share every batch. Up to rounding the run is
the same but for the batch norms, which see a share of each batch (``processes.parallel``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from blaze_utils.training import processes
from blaze_utils.training.batches import TrainingBatches, batch_loader
from blaze_utils.files import write_atomically
from blaze_utils.progress import tqdm
from blaze_utils.training.run import TrainingRun


def initialise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a ``Blaze`` its starting weights, in place, the same for the same seed; return it.

    Kaiming normal for convolutions, the last layer of each head near 0 (0.02), and class biases
    (+2, -2): at first nearly every prior is background, as nearly every prior should be.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            mode = "fan_out" if module.groups == 1 else "fan_in"
            nn.init.kaiming_normal_(
                module.weight, mode=mode, nonlinearity="relu", generator=generator
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for head in (*model.loc, *model.conf, *model.landm):
        nn.init.normal_(head[-1].weight, std=0.02, generator=generator)
    for head in model.conf:
        head[-1].bias.data.copy_(torch.tensor([2.0, -2.0]).repeat(len(head[-1].bias) // 2))
    return model


def _loop(
    run: TrainingRun,
    loader: DataLoader,
    log: tuple[str | Path | None, int],
    resume: tuple[str | Path | None, int],
    progress: bool,
) -> None:
    """Take the steps that are left; ``log`` and ``resume`` are (file or None, steps between)."""
    total = run.settings["steps"]
    start = time.perf_counter() - run.seconds
    bar = tqdm(loader, "training", initial=run.step, total=total, unit="step", disable=not progress)
    for batch in bar:
        run.advance(batch)
        run.seconds = time.perf_counter() - start
        done = run.step == total
        if run.step % log[1] == 0 or done:
            run.add_row((run.step - 1) % log[1] + 1)
            bar.set_postfix(loss=f"{run.rows[-1][1]:.3f}")
            if log[0] is not None and processes.is_first():
                write_atomically(log[0], run.log_text().encode())
        if resume[0] is not None and processes.is_first() and (run.step % resume[1] == 0 or done):
            run.save(resume[0])


def train(
    model: nn.Module, dataset: Sequence, steps: int, *,
    batch_size: int = 16, peak_lr: float = 4e-3, weight_decay: float = 5e-4, clip: float = 10.0,
    averaging: float = 0.995, seed: int = 0, device: str | torch.device = "cpu",
    num_workers: int = 1, log_path: str | Path | None = None, log_every: int = 50,
    resume_path: str | Path | None = None, save_every: int = 500, progress: bool = True,
) -> nn.Module:
    """Train a detector with the multibox loss.

    Of several processes only the first logs, saves and shows the bar; all read ``resume_path``.

    Args:
        model: anything with the inputs and outputs of ``Blaze``; it is trained in place, from the
            weights it has (``initialise`` gives it new ones), and moved to ``device``.
        dataset: ``dataset[i]`` gives a ``datasets.Sample`` with labels; not empty.
        steps: optimizer steps in all, a resumed run's earlier ones included; at least 1.
        batch_size: images a step.
        peak_lr: the learning rate's peak, reached after 12 % of the steps.
        weight_decay: AdamW's, on all parameters.
        clip: largest norm of the gradient.
        averaging: decay of the weight average a step, 0 <= averaging < 1; 0 keeps the last weights.
        seed: of the batches and of torch's global generator.
        device: where to train.
        num_workers: processes that prepare batches; 0 prepares them in this one.
        log_path: CSV file of ``training_run.LOG_COLUMNS``, with a row every ``log_every`` steps and
            after the last: means since the row before, and the seconds of training so far.
        resume_path: file to go on from, if it is there, and to save to every ``save_every`` steps
            and after the last. Removing it is up to the caller.
        progress: whether to show a progress bar.

    Returns:
        A new model of the same class with the averaged weights and buffers, in evaluation mode. Of
        several processes the first one's is the result; the buffers of the others differ.

    Raises:
        ValueError: steps, batch size or averaging out of range, the dataset is empty, or a batch
            has fewer images than there are processes.
        CheckpointError: ``resume_path`` is damaged, or of a run with other settings.
        FloatingPointError: the loss became infinite or NaN.
    """
    settings = {
        "steps": steps, "batch_size": batch_size, "peak_lr": peak_lr, "weight_decay": weight_decay,
        "clip": clip, "averaging": averaging, "seed": seed, "images": len(dataset),
    }
    if batch_size < processes.count():
        raise ValueError(f"batch_size: {processes.count()} processes share {batch_size} images")
    torch.manual_seed(seed)
    run = TrainingRun(model.to(device, memory_format=torch.channels_last).train(), settings)
    if resume_path is not None and Path(resume_path).exists():
        run.restore(resume_path)
    batches = TrainingBatches(dataset, batch_size, seed, processes.share())
    loader = batch_loader(batches, range(run.step, steps), num_workers)
    progress = progress and processes.is_first()
    _loop(run, loader, (log_path, log_every), (resume_path, save_every), progress)
    return run.averaged.module.eval()
