"""A training run: the optimizer, the learning rate, the weight average, and one step of it all.

AdamW, one cycle of the learning rate, averaged weights: the recipe of the shipped detector.
"""

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from blaze_utils.detector.model import MEAN_BGR
from blaze_utils.training.loss import multibox_loss

WARM_UP = 0.12
"""Share of the steps in which the learning rate rises from 1/25 of its peak, to fall to 1/500."""

LOG_COLUMNS = ("step", "loss", "box", "class", "landmark", "lr", "seconds")

_PARTS = ("model", "averaged", "optimizer", "scheduler")
_COUNTS = ("step", "seconds", "rows")


def weight_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Make an update for ``AveragedModel``: an exponential average that forgets faster at first.

    After n updates (n + 1) / (n + 20) of the average is kept, at most ``decay``. Counters and
    flags, which a quantization-aware model has among its buffers, are copied: PyTorch's own
    ``get_ema_multi_avg_fn`` would average them.
    """

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        kept = min(decay, float((count + 1) / (count + 20)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - kept)
        else:
            torch._foreach_copy_(averaged, current)

    return update


class TrainingRun:
    """All that changes during a training run, and how a step changes it.

    Args:
        model: the network, float or fake-quantized, on its device and in training mode; trained in
            place.
        steps: optimizer steps in all; the learning rate is a function of ``step / steps``.
        peak_lr: the learning rate's peak, reached after 12 % of the steps.
        weight_decay: AdamW's, on all parameters.
        clip: largest norm of the gradient.
        averaging: decay of the weight average a step, 0 <= averaging < 1; 0 keeps the last weights.

    Attributes:
        network: what each step calls: the model, or a wrapper of it that the caller puts here.
        averaged: the weight average (its model is ``averaged.module``), None before the first step.
        step: steps done.
        rows: the log so far, lists of numbers in the order of ``LOG_COLUMNS``.

    Raises:
        ValueError: ``steps`` is below 1, or ``averaging`` out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        *,
        peak_lr: float = 4e-3,
        weight_decay: float = 5e-4,
        clip: float = 10.0,
        averaging: float = 0.995,
    ) -> None:
        if steps < 1 or not 0 <= averaging < 1:
            raise ValueError(
                f"steps ({steps}) must be 1 or more, averaging ({averaging}) in [0, 1)"
            )
        self.model = self.network = model
        self.steps, self.clip, self.averaging = steps, clip, averaging
        self.averaged: AveragedModel | None = None
        self.optimizer = AdamW(model.parameters(), lr=peak_lr, weight_decay=weight_decay)
        cycle = {"pct_start": WARM_UP, "div_factor": 25, "final_div_factor": 20}
        self.scheduler = OneCycleLR(self.optimizer, peak_lr, steps, cycle_momentum=False, **cycle)
        device = next(model.parameters()).device
        self.mean = torch.tensor(MEAN_BGR, device=device).view(1, 3, 1, 1)
        self.step, self.seconds, self.rows = 0, 0.0, []
        self._recent: list[Tensor] = []  # the losses since the last row

    def advance(self, batch: Sequence[Tensor]) -> None:
        """Take one step of the optimizer and of the average.

        ``batch`` is images, labels, box and landmark targets, as ``TrainingBatches`` gives them.
        """
        start = time.perf_counter()
        images, *targets = (t.to(self.mean.device, non_blocking=True) for t in batch)
        # A permuted [B, S, S, 3] is channels_last already, and stays so.
        inputs = images.permute(0, 3, 1, 2).float() - self.mean
        losses = multibox_loss(self.network(inputs), *targets)
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._recent.append(torch.stack([loss.detach() for loss in losses]))
        self.step += 1
        if self.step < self.steps:
            self.scheduler.step()
        # Made after the first step: a quantization-aware model sizes buffers when it first runs.
        if self.averaged is None:
            self.averaged = self._average()
        self.averaged.update_parameters(self.model)
        self.seconds += time.perf_counter() - start

    def _average(self) -> AveragedModel:
        update = weight_average(self.averaging)
        return AveragedModel(self.model, multi_avg_fn=update, use_buffers=True)

    def add_row(self) -> None:
        """Add the mean losses since the last row to ``rows``.

        Raises:
            FloatingPointError: one of them is infinite or NaN.
        """
        means = torch.stack(self._recent).mean(dim=0).tolist()
        if not all(math.isfinite(mean) for mean in means):
            raise FloatingPointError(
                f"step {self.step}: the loss is not finite any more; try a lower peak_lr"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        self.rows.append([self.step, *means, rate, self.seconds])
        self._recent.clear()

    def state_dict(self) -> dict:
        """Give all that the next step depends on, as ``torch.save`` and ``torch.load`` take it."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {**parts, **counts, "recent": self._recent, "rng": torch.get_rng_state()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from where ``state_dict`` was called, in a run with the same arguments."""
        self.averaged = self._average()
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in _COUNTS:
            setattr(self, name, state[name])
        self._recent = [losses.to(self.mean.device) for losses in state["recent"]]
        torch.set_rng_state(state["rng"])
