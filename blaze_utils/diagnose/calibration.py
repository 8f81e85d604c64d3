"""Checks whether the range of every layer's output is known."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from .anatomy import Anatomy, is_observer
from .finding import Finding, finding
from .running import Recording

FIXES = {
    "prepared": """with torch.inference_mode():
    for image in calibration_images:  # preprocessed as for inference
        prepared(image)
converted = convert(prepared)""",
    "prepared for QAT": "prepared(images)  # the first training steps set the ranges",
    "converted": """prepared = prepare(model)  # again, from the float model
with torch.inference_mode():
    for image in calibration_images:  # preprocessed as for inference
        prepared(image)
converted = convert(prepared)""",
}


def check_calibration(anatomy: Anatomy, recording: Recording) -> Iterator[Finding]:
    """Observers that saw nothing, of modules that are called; an unused one does no harm."""
    ranges = {name: _has_range(module) for name, module in anatomy.modules.items()}
    ranges = {name: known for name, known in ranges.items() if known is not None}
    if recording.complete:
        called = {call.module for call in recording.calls}
        ranges = {name: known for name, known in ranges.items() if name in called}
    blind = [name for name, known in ranges.items() if not known]
    what = "the observer has seen nothing yet, so convert would take scale 1.0 and zero point 0."
    if anatomy.stage == "converted":
        what = (
            "scale and zero point are 1.0 and 0, the defaults: nothing was shown to the observer "
            "before convert, and the output is rounded to whole numbers from 0 to 255."
        )
    if len(blind) > 1 and len(blind) == len(ranges):
        everywhere = f"In all {len(blind)} layers {what}"
        yield finding("NOT_CALIBRATED", "", everywhere, FIXES[anatomy.stage])
        return
    for name in blind:
        yield finding("NOT_CALIBRATED", name, f"In this layer {what}", FIXES[anatomy.stage])


def _has_range(module: nn.Module) -> bool | None:
    """Whether the range of a module's output is known; None for a module that needs none."""
    observer = getattr(module, "activation_post_process", None)
    if isinstance(observer, nn.Module) and is_observer(observer):
        observer = getattr(observer, "activation_post_process", observer)
        low, high = getattr(observer, "min_val", None), getattr(observer, "max_val", None)
        if not isinstance(low, Tensor) or not isinstance(high, Tensor):
            return None
        return low.numel() > 0 and not bool((low > high).any())
    scale, zero_point = getattr(module, "scale", None), getattr(module, "zero_point", None)
    if scale is None or zero_point is None or not type(module).__module__.startswith("torch.ao."):
        return None
    return not (float(scale) == 1.0 and int(zero_point) == 0)
