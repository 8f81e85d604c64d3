"""The training loop: for the float baseline, and later for quantization-aware training.

A run is a function of its settings and seed: the batch that a step sees depends on (seed, step) alone
(``batches.py``), so that a killed run goes on where it was last saved as if nothing had happened. The recipe (AdamW, one cycle, weight averaging) is the one that trained the shipped
checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from blaze_utils.batches import TrainingBatches, batch_loader
from blaze_utils.files import write_atomically
from blaze_utils.loss import multibox_loss
from blaze_utils.model import MEAN_BGR
from blaze_utils.storage import CheckpointError, load_tensors, save_tensors

WARM_UP = 0.12
"""Share of the steps in which the learning rate rises, from 1/25 to its peak; then it falls to 1/500."""

LOG_COLUMNS = ("step", "loss", "box", "class", "landmark", "lr", "seconds")

_PARTS = ("model", "averaged", "optimizer", "scheduler")


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


def _average(decay: float):
    """An update for ``AveragedModel``: an exponential average that forgets faster in the beginning.

    Counters and flags, which a quantization-aware model has among its buffers, are copied.
    """

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        kept = min(decay, float((count + 1) / (count + 20)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - kept)
        else:
            torch._foreach_copy_(averaged, current)

    return update


class _Run:
    """What changes during a run, and how a step changes it."""

    def __init__(self, model: nn.Module, settings: dict) -> None:
        self.model, self.settings = model, settings
        self.averaged: AveragedModel | None = None
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings["peak_lr"], weight_decay=settings["weight_decay"]
        )
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings["peak_lr"], settings["steps"], pct_start=WARM_UP,
            div_factor=25, final_div_factor=20, cycle_momentum=False,
        )
        device = next(model.parameters()).device
        self.mean = torch.tensor(MEAN_BGR, device=device).view(1, 3, 1, 1)
        self.step, self.seconds, self.rows = 0, 0.0, []
        self.recent = torch.zeros(4, device=device)  # sums of the losses since the last row

    def advance(self, batch: Sequence[Tensor]) -> None:
        """One step of the optimizer and of the average."""
        images, *targets = (t.to(self.mean.device, non_blocking=True) for t in batch)
        # A permuted [B, S, S, 3] is channels_last already, and stays so.
        inputs = images.permute(0, 3, 1, 2).float() - self.mean
        losses = multibox_loss(self.model(inputs), *targets)
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["clip"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.recent += torch.stack([loss.detach() for loss in losses])
        self.step += 1
        if self.step < self.settings["steps"]:
            self.scheduler.step()
        self._average_weights()

    def _average_weights(self) -> None:
        # Made after the first step: a quantization-aware model sizes some buffers when it first runs.
        if self.averaged is None:
            self._make_average()
        self.averaged.update_parameters(self.model)

    def _make_average(self) -> None:
        update = _average(self.settings["averaging"])
        self.averaged = AveragedModel(self.model, multi_avg_fn=update, use_buffers=True)

    def add_row(self, steps: int) -> None:
        """Add the means of the last ``steps`` steps to the log's rows."""
        means = (self.recent / steps).tolist()
        if not all(math.isfinite(mean) for mean in means):
            raise FloatingPointError(
                f"step {self.step}: the loss is not finite any more; a lower peak_lr than "
                f"{self.settings['peak_lr']} may help"
            )
        self.rows.append([self.step, *means, self.optimizer.param_groups[0]["lr"], self.seconds])
        self.recent.zero_()

    def log_text(self) -> str:
        """The rows so far as CSV, with a header."""
        lines = [",".join(LOG_COLUMNS)]
        for step, *losses, rate, seconds in self.rows:
            means = ",".join(f"{loss:.4f}" for loss in losses)
            lines.append(f"{step},{means},{rate:.3e},{seconds:.1f}")
        return "\n".join(lines) + "\n"

    def save(self, path: Path) -> None:
        """Store all that the next step depends on."""
        state = {name: getattr(self, name).state_dict() for name in _PARTS}
        plain = {name: getattr(self, name) for name in ("settings", "step", "seconds", "rows")}
        save_tensors({**state, **plain, "recent": self.recent, "rng": torch.get_rng_state()}, path)

    def restore(self, path: Path) -> None:
        """Go on from a file that ``save`` wrote; CheckpointError if it is not of this run."""
        stored = load_tensors(path)
        if not isinstance(stored, dict) or "settings" not in stored:
            raise CheckpointError(f"{path}: not the resume file of a training run")
        for name, wanted in self.settings.items():
            if stored["settings"].get(name) != wanted:
                raise CheckpointError(
                    f"{path}: belongs to a run with {name} = {stored['settings'].get(name)}, this one "
                    f"has {wanted}; remove the file to begin anew"
                )
        self.model.load_state_dict(stored["model"])
        self._make_average()
        for name in _PARTS[1:]:
            getattr(self, name).load_state_dict(stored[name])
        self.step, self.seconds, self.rows = stored["step"], stored["seconds"], stored["rows"]
        self.recent.copy_(stored["recent"])
        torch.set_rng_state(stored["rng"])


def train(
    model: nn.Module,
    dataset: Sequence,
    steps: int,
    *,
    batch_size: int = 16,
    peak_lr: float = 4e-3,
    weight_decay: float = 5e-4,
    clip: float = 10.0,
    averaging: float = 0.995,
    seed: int = 0,
    device: str | torch.device = "cpu",
    num_workers: int = 1,
    log_path: str | Path | None = None,
    resume_path: str | Path | None = None,
    log_every: int = 50,
    save_every: int = 500,
) -> nn.Module:
    """Train a detector with the multibox loss; show a progress bar.

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
        seed: of batches and of torch's global generator.
        device: where to train.
        num_workers: processes that prepare batches; 0 prepares them in this one.
        log_path: CSV file of ``LOG_COLUMNS``, rewritten at every row; losses are means since the row
            before, ``seconds`` the time spent training so far.
        resume_path: file to go on from, if it is there, and to save to every ``save_every`` steps and
            after the last one. Removing it is up to the caller.
        log_every: steps a row.
        save_every: steps between saves.

    Returns:
        A new model of the same class with the averaged weights and buffers, in evaluation mode.

    Raises:
        ValueError: steps, batch size or averaging out of range, or the dataset is empty.
        CheckpointError: ``resume_path`` is damaged, or of a run with other settings.
        FloatingPointError: the loss became infinite or NaN.
    """
    if steps < 1 or batch_size < 1 or not 0 <= averaging < 1:
        raise ValueError(
            f"steps and batch_size must be 1 or more and averaging in [0, 1), "
            f"got {steps}, {batch_size} and {averaging}"
        )
    settings = {
        "steps": steps, "batch_size": batch_size, "peak_lr": peak_lr, "weight_decay": weight_decay,
        "clip": clip, "averaging": averaging, "seed": seed, "images": len(dataset),
    }
    batches = TrainingBatches(dataset, batch_size, seed)
    torch.manual_seed(seed)
    model.to(device, memory_format=torch.channels_last).train()
    run = _Run(model, settings)
    if resume_path is not None and Path(resume_path).exists():
        run.restore(Path(resume_path))
    loader = batch_loader(batches, range(run.step, steps), num_workers)
    start = time.perf_counter() - run.seconds
    with tqdm(loader, desc="training", initial=run.step, total=steps, unit="step") as bar:
        for batch in bar:
            run.advance(batch)
            run.seconds = time.perf_counter() - start
            if run.step % log_every == 0 or run.step == steps:
                run.add_row((run.step - 1) % log_every + 1)
                bar.set_postfix(loss=f"{run.rows[-1][1]:.3f}")
                if log_path is not None:
                    write_atomically(log_path, run.log_text().encode())
            if resume_path is not None and (run.step % save_every == 0 or run.step == steps):
                run.save(Path(resume_path))
    return run.averaged.module.eval()
