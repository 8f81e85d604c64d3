"""The state of a training run: one step of it, its log, saving it and going on from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from blaze_utils.training import processes
from blaze_utils.training.loss import FACE, Losses, multibox_loss
from blaze_utils.detector.model import MEAN_BGR
from blaze_utils.detector.storage import CheckpointError, load_tensors, save_tensors

WARM_UP = 0.12
"""Share of the steps in which the learning rate rises from 1/25 of its peak, to fall to 1/500."""

LOG_COLUMNS = ("step", "loss", "box", "class", "landmark", "lr", "seconds")

_PARTS = ("model", "averaged", "optimizer", "scheduler")


def weight_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """An update for ``AveragedModel``: an exponential average that forgets faster in the beginning.

    After n updates (n + 1) / (n + 20) of the average is kept, at most ``decay``. Counters and
    flags, which a quantization-aware model has among its buffers, are copied.
    """

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        kept = min(decay, float((count + 1) / (count + 20)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - kept)
        else:
            torch._foreach_copy_(averaged, current)

    return update


def of_whole_batch(losses: Losses, labels: Tensor) -> Losses:
    """Weight the losses of this process's share: their mean over the processes is the batch's loss.

    ``multibox_loss`` divides by the face priors of the share, here it becomes those of all shares.
    ``labels`` int64 [N, P] are the share's. Without several processes nothing changes.
    """
    if not processes.in_group():
        return losses
    faces = (labels == FACE).sum().float()
    weight = faces.clamp(min=1) / processes.mean(faces).clamp(min=1 / processes.count())
    return Losses(*(weight * loss for loss in losses))


class TrainingRun:
    """All that changes during a training run, and how a step changes it.

    Args:
        model: the network, on its device, in training mode; trained in place.
        settings: what makes the run what it is: steps, batch_size, peak_lr, weight_decay, clip,
            averaging, seed and images (their number). A resume file of other settings is refused.

    Attributes:
        averaged: the weight average, None before the first step.
        step: steps done; seconds: time spent on them, kept by the caller.
        rows: the log so far, lists of numbers in the order of ``LOG_COLUMNS``.

    Raises:
        ValueError: steps, batch size or averaging out of range.
    """

    def __init__(self, model: nn.Module, settings: dict) -> None:
        steps, averaging = settings["steps"], settings["averaging"]
        if steps < 1 or settings["batch_size"] < 1 or not 0 <= averaging < 1:
            raise ValueError(
                "steps and batch_size must be 1 or more and averaging in [0, 1), "
                "got {steps}, {batch_size} and {averaging}".format(**settings)
            )
        self.model, self.settings = model, settings
        self.network = processes.parallel(model)
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
        """One step of the optimizer and of the average.

        ``batch`` is images, labels, box and landmark targets, as ``TrainingBatches`` gives them; of
        several processes each takes its share of the batch.
        """
        images, *targets = (t.to(self.mean.device, non_blocking=True) for t in batch)
        # A permuted [B, S, S, 3] is channels_last already, and stays so.
        inputs = images.permute(0, 3, 1, 2).float() - self.mean
        losses = of_whole_batch(multibox_loss(self.network(inputs), *targets), targets[0])
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["clip"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.recent += processes.mean(torch.stack([loss.detach() for loss in losses]))
        self.step += 1
        if self.step < self.settings["steps"]:
            self.scheduler.step()
        self._average_weights()

    def _average_weights(self) -> None:
        # Made after the first step: a quantization-aware model sizes buffers when it first runs.
        if self.averaged is None:
            self._make_average()
        self.averaged.update_parameters(self.model)

    def _make_average(self) -> None:
        update = weight_average(self.settings["averaging"])
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

    def save(self, path: str | Path) -> None:
        """Store all that the next step depends on."""
        state = {name: getattr(self, name).state_dict() for name in _PARTS}
        plain = {name: getattr(self, name) for name in ("settings", "step", "seconds", "rows")}
        save_tensors({**state, **plain, "recent": self.recent, "rng": torch.get_rng_state()}, path)

    def restore(self, path: str | Path) -> None:
        """Go on from a file that ``save`` wrote; CheckpointError if it is not of this run."""
        stored = load_tensors(path)
        if not isinstance(stored, dict) or "settings" not in stored:
            raise CheckpointError(f"{path}: not the resume file of a training run")
        for name, wanted in self.settings.items():
            found = stored["settings"].get(name)
            if found != wanted:
                raise CheckpointError(
                    f"{path}: belongs to a run with {name} = {found}, this one has {wanted}; "
                    "remove the file to begin anew"
                )
        self.model.load_state_dict(stored["model"])
        self._make_average()
        for name in _PARTS[1:]:
            getattr(self, name).load_state_dict(stored[name])
        self.step, self.seconds, self.rows = stored["step"], stored["seconds"], stored["rows"]
        self.recent.copy_(stored["recent"])
        torch.set_rng_state(stored["rng"])
