"""Static quantization by export (PT2E, torchao), the successor of eager mode, in one call and its parts.

The float model goes in as it is: ``torch.export`` writes down its graph, and a quantizer says where
integers belong. Notebook 09 shows every step in the open.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config
from torch.fx import GraphModule

from blaze_utils.detector.model import SIZE_MULTIPLE
from blaze_utils.int8.eager import calibrate

# torchao, on import, has torch note on stderr that one of its enums is registered in an old way.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
from torchao.quantization.pt2e import allow_exported_model_train_eval  # noqa: E402
from torchao.quantization.pt2e.quantize_pt2e import (  # noqa: E402
    convert_pt2e,
    prepare_pt2e,
    prepare_qat_pt2e,
)
from torchao.quantization.pt2e.quantizer import Quantizer  # noqa: E402
from torchao.quantization.pt2e.quantizer.arm_inductor_quantizer import (  # noqa: E402
    ArmInductorQuantizer,
    get_default_arm_inductor_quantization_config,
)
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (  # noqa: E402
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

X86 = ("x86_64", "AMD64")
"""What ``platform.machine()`` says on Intel and AMD (Linux and macOS, Windows)."""

MOST_PIXELS = 2048
"""Largest side of an input that an exported graph takes."""


def has_vnni() -> bool:
    """Whether this processor adds int8 products in 32 bits (VNNI): on x86 without it they saturate."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_vnni") or capabilities.get("avx_vnni"))


def inductor_quantizer(is_qat: bool = False) -> Quantizer:
    """torchao's quantizer for ``torch.compile`` on this machine's kind of processor.

    On x86 without VNNI activations get 7 bits (``reduce_range``), which torchao does not do by
    itself; see notebook 06.
    """
    if platform.machine() in X86:
        config = get_default_x86_inductor_quantization_config(
            is_qat=is_qat, reduce_range=not has_vnni()
        )
        return X86InductorQuantizer().set_global(config)
    config = get_default_arm_inductor_quantization_config(is_qat=is_qat)
    return ArmInductorQuantizer().set_global(config)


def _with_mode(graph: GraphModule, training: bool) -> GraphModule:
    """Let a graph have ``eval()`` and ``train()``, which torchao forbids, and note its mode."""
    return nn.Module.train(allow_exported_model_train_eval(graph), training)


def sides(most: int = MOST_PIXELS) -> dict[int, object]:
    """Height and width left open for ``torch.export``: multiples of 16 from 32 to ``most`` pixels."""
    cells = {axis: torch.export.Dim(f"cells{axis}", min=2, max=most // SIZE_MULTIPLE) for axis in (2, 3)}
    return {axis: SIZE_MULTIPLE * dimension for axis, dimension in cells.items()}


def export_graph(model: nn.Module, example: Tensor | None = None) -> GraphModule:
    """The graph of a detector in ATen operators, by ``torch.export``.

    Args:
        model: takes float32 [N, 3, H, W], multiples of 16. In training mode, the graph has batch
            norms that learn; in evaluation mode, ones that do not.
        example: fixes the size of the input to its own; None leaves height and width open, from 32
            to 2048, and in training mode the number of images too.

    Returns:
        A graph whose ``eval()`` and ``train()`` do nothing harmful: batch norms stay as exported.
    """
    if example is None:
        images = {0: torch.export.Dim("images", min=2, max=1024)} if model.training else {}
        example = torch.zeros(2 if model.training else 1, 3, 256, 320)
        program = torch.export.export(model, (example,), dynamic_shapes=(images | sides(),))
    else:
        program = torch.export.export(model, (example,))
    return _with_mode(program.module(), model.training)


def quantize_pt2e(
    model: nn.Module,
    images: Iterable[np.ndarray | Tensor],
    quantizer: Quantizer | None = None,
) -> GraphModule:
    """Post-training static quantization by export: export, prepare, calibrate, convert.

    Args:
        model: a float detector in evaluation mode, ``Blaze`` or another; it is not changed.
        images: what to calibrate with, as for ``quantize.calibrate``.
        quantizer: which integers go where; None takes ``inductor_quantizer()``.

    Returns:
        A graph with quantize and dequantize operators around each layer, which computes in float
        what int8 will give. It is slow until a backend lowers it: ``lower`` here, ``export`` for
        phones.

    Raises:
        ValueError: the model is in training mode, or the images are unfit.
    """
    if model.training:
        raise ValueError("model: is in training mode: call .eval() first")
    quantizer = inductor_quantizer() if quantizer is None else quantizer
    prepared = _with_mode(prepare_pt2e(export_graph(model), quantizer), training=False)
    calibrate(prepared, images)
    return _with_mode(convert_pt2e(prepared), training=False)


def prepare_qat(model: nn.Module, quantizer: Quantizer | None = None) -> GraphModule:
    """Export a float model for quantization-aware training: fake quantization, live batch norms.

    Args:
        model: in training mode; it is not changed, the graph has weights of its own.
        quantizer: None takes ``inductor_quantizer(is_qat=True)``.

    Raises:
        ValueError: the model is in evaluation mode, in which batch norms would not learn.
    """
    if not model.training:
        raise ValueError("model: is in evaluation mode: call .train() before exporting it for QAT")
    quantizer = inductor_quantizer(is_qat=True) if quantizer is None else quantizer
    return _with_mode(prepare_qat_pt2e(export_graph(model), quantizer), training=True)


def convert_qat(prepared: GraphModule) -> GraphModule:
    """Convert what ``prepare_qat`` gave, after training; the graph is changed in place."""
    prepared.eval()  # torchao's returns nothing
    return _with_mode(convert_pt2e(prepared), training=False)


def lowering_obstacle() -> str | None:
    """Why ``lower`` cannot make int8 code on this machine, as a sentence; None where it can."""
    if platform.machine() not in X86:
        return (
            "the int8 convolutions of torch.compile are for Intel and AMD processors, "
            f"and this one is {platform.machine()}."
        )
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if shutil.which(compiler) is None:
        return f"torch.compile needs a C++ compiler, and there is no {compiler} here."
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "torch.compile needs Python's header files, and Python.h is missing here."
    return None


@contextmanager
def _as_compiled(threads: int) -> Iterator[None]:
    """What compiled code asks for at each call: without gradients, with as many threads as then.

    Anything else, also inference mode, would have it compiled anew.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def lower(
    model: nn.Module, example: Tensor, freezing: bool = True, threads: int = 1
) -> Callable[[Tensor], object]:
    """Compile a model or a converted graph with ``torch.compile``, for one size of input.

    Args:
        model: a float model in evaluation mode, or what ``quantize_pt2e`` gave.
        example: float32 [N, 3, H, W].
        freezing: whether weights are constants. Without it an int8 graph is not lowered at all: its
            weights are dequantized anew in each call, and the convolutions are float.
        threads: of PyTorch. They become part of the code, which runs with so many from then on.

    Returns:
        A function of an input that gives what the model gives. It has been called once, so that it is
        compiled; that takes from seconds to a minute. It raises ValueError for another shape.

    Raises:
        RuntimeError: ``lowering_obstacle()`` says why.
    """
    obstacle = lowering_obstacle()
    if obstacle:
        raise RuntimeError(obstacle)
    # The option keeps the two kinds of code for one model apart; it alone would come too late, when
    # the weights have become inputs of the graph.
    compiled = torch.compile(model, dynamic=False, options={"freezing": freezing})

    def run(x: Tensor) -> object:
        if x.shape != example.shape:
            raise ValueError(f"compiled for {list(example.shape)}, got {list(x.shape)}")
        with _as_compiled(threads):
            return compiled(x)

    with inductor_config.patch(freezing=freezing):
        run(example)
    return run
