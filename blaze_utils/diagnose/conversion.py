"""Modules on which ``prepare``, the calibration or ``convert`` stops, or which convert spoils."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.ao.nn import quantized
from torch.ao.quantization import FixedQParamsObserver, QConfig, get_default_qconfig

from .anatomy import Anatomy, engine_in_use, float_type
from .finding import Finding, finding

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_conversion(anatomy: Anatomy) -> Iterator[Finding]:
    """Findings about single modules."""
    for name, module in anatomy.modules.items():
        if name not in anatomy.stays_float and _is_spoilt_prelu(module, anatomy.qconfigs[name]):
            yield _prelu(name)
        elif name not in anatomy.stays_float and anatomy.stage != "converted":
            yield from _unconvertible(name, module, anatomy.qconfigs[name])


def _unconvertible(name: str, module: nn.Module, qconfig: QConfig | None) -> Iterator[Finding]:
    kind = float_type(module)
    if kind in TRANSPOSED and _per_channel(qconfig):
        yield finding(
            "UNSUPPORTED_MODULE", name,
            f"{kind.__name__} has no int8 form with a scale for each channel of its weights, "
            "which the default qconfig of x86, fbgemm and onednn asks for: prepare stops here.",
            _for_all(f"nn.{kind.__name__}", "default_qconfig  # one scale for all weights"),
        )
    elif kind in CONVOLUTIONS and isinstance(module.padding, str):
        yield finding(
            "UNSUPPORTED_MODULE", name,
            f"padding={module.padding!r} has no int8 form, it must be numbers: convert stops "
            "here.",
            "padding=kernel_size // 2  # in __init__: for odd kernels the same as 'same'",
        )
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and kind is not nn.LSTM:
        yield finding(
            "UNSUPPORTED_MODULE", name,
            f"{kind.__name__} has no static int8 form; after prepare its observer stops, "
            "since it returns a tuple.",
            _for_all("(nn.RNNBase, nn.RNNCellBase)", "None  # float; or use quantize_dynamic"),
        )
    elif kind in (nn.Embedding, nn.EmbeddingBag) and not _suits_embedding(qconfig):
        yield finding(
            "UNSUPPORTED_MODULE", name,
            f"{kind.__name__} needs a qconfig of its own: with one for layers convert stops.",
            _for_all("(nn.Embedding, nn.EmbeddingBag)",
                     "float_qparams_weight_only_qconfig  # or None: float"),
        )


def _prelu(name: str) -> Finding:
    return finding(
        "UNSUPPORTED_MODULE", name,
        "PReLU needs a qconfig of its own: with one scale for each channel, the default, convert "
        "stops; with one that cannot express 1.0, positive values are multiplied by the largest "
        "slope instead of by 1.",
        "slopes = FixedQParamsObserver.with_args(\n"
        "    scale=1 / 64, zero_point=128, dtype=torch.quint8)\n"
        + _for_all("nn.PReLU", "QConfig(model.qconfig.activation, slopes)"),
    )


def _is_spoilt_prelu(module: nn.Module, qconfig: QConfig | None) -> bool:
    """A PReLU, float or int8, whose weights are not quantized so that they can express 1.0."""
    if isinstance(module, quantized.PReLU):
        weight = module.weight
        return weight.q_scale() * (255 - weight.q_zero_point()) < 1
    if type(module) is not nn.PReLU:
        return False
    return qconfig is None or not isinstance(qconfig.weight(), FixedQParamsObserver)


def _for_all(types: str, qconfig: str) -> str:
    return (
        "for module in model.modules():  # before prepare\n"
        f"    if isinstance(module, {types}):\n"
        f"        module.qconfig = {qconfig}"
    )


def _weight_scheme(qconfig: QConfig | None) -> torch.qscheme | None:
    """How a qconfig (None: the default of the engine in use) quantizes weights."""
    if qconfig is None:
        engine = engine_in_use()
        qconfig = get_default_qconfig("x86" if engine == "none" else engine)
    return getattr(qconfig.weight(), "qscheme", None)


def _per_channel(qconfig: QConfig | None) -> bool:
    return _weight_scheme(qconfig) in (torch.per_channel_affine, torch.per_channel_symmetric)


def _suits_embedding(qconfig: QConfig | None) -> bool:
    return _weight_scheme(qconfig) == torch.per_channel_affine_float_qparams
