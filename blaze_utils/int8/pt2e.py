"""Static quantization by export (PT2E, torchao), the successor of eager mode, step by step.

The float model goes in as it is: ``torch.export`` writes down its graph, and a quantizer says where
integers belong. What comes out computes in float what int8 will give. ``lower`` makes fast code of
it in this process, ``package`` in a file. Notebook 09 shows every step in the open.
"""

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
from blaze_utils.int8.eager import X86, calibrate, saturates
from blaze_utils.int8.runtimes import quiet_stderr

with (
    quiet_stderr()
):  # on import, torch notes that one of torchao's enums is registered in an old way
    from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import (
        Quantizer,
        arm_inductor_quantizer,
        x86_inductor_quantizer,
    )

MOST_PIXELS = 2048  # largest side of an input that an exported graph takes

# What an exported graph notes of where its nodes come from, with paths of the machine.
ORIGIN = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "custom")


def inductor_quantizer(is_qat: bool = False) -> Quantizer:
    """torchao's quantizer for ``torch.compile`` on this machine's kind of processor.

    On x86 without VNNI activations get 7 bits (``reduce_range``), which torchao does not do by
    itself; see ``has_vnni``.
    """
    if platform.machine() in X86:
        x86 = x86_inductor_quantizer
        reduce_range = saturates("onednn")
        config = x86.get_default_x86_inductor_quantization_config(is_qat, reduce_range=reduce_range)
        return x86.X86InductorQuantizer().set_global(config)
    arm = arm_inductor_quantizer
    config = arm.get_default_arm_inductor_quantization_config(is_qat=is_qat)
    return arm.ArmInductorQuantizer().set_global(config)


def sides(most: int = MOST_PIXELS) -> dict[int, object]:
    """Height and width left open for ``torch.export``: multiples of 16, from 32 to ``most``."""
    limit = most // SIZE_MULTIPLE
    cells = {axis: torch.export.Dim(f"cells{axis}", min=2, max=limit) for axis in (2, 3)}
    return {axis: SIZE_MULTIPLE * dimension for axis, dimension in cells.items()}


def export_program(
    model: nn.Module, example: Tensor | None = None, most: int = MOST_PIXELS
) -> torch.export.ExportedProgram:
    """A model written down in ATen operators, by ``torch.export``, strictly.

    Strict export gives a module that is called twice two nodes of its own. Otherwise a ReLU that
    layers share, as in torchvision's ResNets, stops torchao with ``Input partition has more than
    one output node``.

    Args:
        model: takes float32 [N, 3, H, W].
        example: fixes the size of the input to its own. None leaves height and width open, in
            multiples of 16 from 32 to ``most``, and in training mode the number of images too.
    """
    shapes = None
    if example is None:
        images = {0: torch.export.Dim("images", min=2, max=1024)} if model.training else {}
        example = torch.zeros(2 if model.training else 1, 3, 64, 96)
        shapes = (images | sides(most),)
    return torch.export.export(model, (example,), dynamic_shapes=shapes, strict=True)


class TrainableGraph(GraphModule):
    """An exported graph whose batch norms and dropout follow ``training``, as in any module.

    ``torch.export`` writes the mode into the graph. torchao's functions rewrite it; here they are
    called whenever ``training`` is set, by ``train()``, ``eval()`` or whoever evaluates in between.
    """

    @property
    def training(self) -> bool:  # noqa: D102
        return self.__dict__["training"]

    @training.setter
    def training(self, mode: bool) -> None:
        self.__dict__["training"] = mode
        if "_graph" in self.__dict__:  # not while it is made
            (move_exported_model_to_train if mode else move_exported_model_to_eval)(self)


def _graph(graph: GraphModule, training: bool = False) -> GraphModule:
    """A graph that may have ``eval()`` and ``train()``, without tensors that no node uses."""
    kept = (TrainableGraph if training else GraphModule)(graph, graph.graph)
    kept.meta = graph.meta
    return kept.train(training)


def export_graph(model: nn.Module, example: Tensor | None = None) -> GraphModule:
    """The graph of a detector in ATen operators: ``export_program``, as a module.

    From a model in training mode, it has batch norms that learn, and follows ``train()`` and
    ``eval()``; from one in evaluation mode, batch norms stay as exported.
    """
    return _graph(export_program(model, example).module(), model.training)


def quantize_pt2e(
    model: nn.Module,
    images: Iterable[np.ndarray | Tensor],
    quantizer: Quantizer | None = None,
    example: Tensor | None = None,
) -> GraphModule:
    """Post-training static quantization by export: export, prepare, calibrate, convert.

    Args:
        model: a float network in evaluation mode, ``Blaze`` or another; it is not changed.
        images: what to calibrate with, as for ``calibrate``.
        quantizer: which integers go where; None takes ``inductor_quantizer()``.
        example: fixes the size of the input, see ``export_program``.

    Returns a graph with quantize and dequantize operators around each layer, slow until it is
    lowered. ValueError: the model is in training mode, there are no images, or the quantizer put
    integers nowhere.
    """
    if model.training:
        raise ValueError("model: is in training mode: call .eval() first")
    quantizer = inductor_quantizer() if quantizer is None else quantizer
    prepared = _graph(prepare_pt2e(export_program(model, example).module(), quantizer))
    calibrate(prepared, images)
    return _converted(prepared)


def _converted(prepared: GraphModule) -> GraphModule:
    int8 = convert_pt2e(prepared)
    if any("quantized_decomposed" in str(node.target) for node in int8.graph.nodes):
        return _graph(int8)
    raise ValueError(
        "quantizer: put integers nowhere, the graph is float as before: give it a configuration, "
        "as with set_global(config)"
    )


def prepare_qat(model: nn.Module, quantizer: Quantizer | None = None) -> GraphModule:
    """Export a float model for quantization-aware training: fake quantization, live batch norms.

    Args:
        model: in training mode; it is not changed, the graph has weights of its own. In evaluation
            mode batch norms would not learn: ValueError.
        quantizer: None takes ``inductor_quantizer(is_qat=True)``.
    """
    if not model.training:
        raise ValueError("model: is in evaluation mode: call .train() before exporting it for QAT")
    quantizer = inductor_quantizer(is_qat=True) if quantizer is None else quantizer
    return _graph(prepare_qat_pt2e(export_program(model).module(), quantizer), training=True)


def convert_qat(prepared: GraphModule) -> GraphModule:
    """Convert what ``prepare_qat`` gave, after training; the graph is changed in place."""
    return _converted(prepared.eval())


def save_graph(graph: GraphModule, path: str | Path, example: Tensor | None = None) -> None:
    """Store a graph with ``torch.export.save``, without example inputs and the author's paths.

    The graph is float or converted, in evaluation mode; ``example`` as for ``export_program``.
    """
    program = export_program(graph, example)
    program.example_inputs = None
    for node in program.graph.nodes:
        for note in ORIGIN:
            node.meta.pop(note, None)
    torch.export.save(program, path)


def load_graph(path: str | Path) -> GraphModule:
    """Read what ``save_graph`` wrote.

    This module has imported torchao, and with it the operators of quantized graphs. Without them
    ``torch.export.load`` says no more than ``We ran into an error when deserializing``.
    """
    return _graph(torch.export.load(path).module())


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
            convolutions stay float, and activations are rounded between them.
        threads: of PyTorch. They become part of the code, which runs with so many from then on.

    Returns a function of an input that gives what the model gives; it has been called once, so that
    it is compiled, in seconds to a minute. ValueError for an input of another shape; RuntimeError
    where ``lowering_obstacle()`` says why.
    """
    if obstacle := lowering_obstacle():
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


def package(
    model: nn.Module, path: str | Path, example: Tensor | None = None, threads: int = 1
) -> None:
    """Compile ahead of time what ``lower`` compiles, into a ``.pt2`` file (AOTInductor).

    ``torch._inductor.aoti_load_package(path)`` runs it, on the same kind of processor and with the
    same version of torch: without this package, torchao or a compiler.

    Args:
        model, threads: as for ``lower``, same error.
        path: its name must end in ``.pt2``.
        example: fixes the size of the input, see ``export_program``.
    """
    if obstacle := lowering_obstacle():
        raise RuntimeError(obstacle)
    with _as_compiled(threads), inductor_config.patch(freezing=True):
        program = export_program(model, example)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
