"""Detectors as files for other runtimes: ONNX, ExecuTorch, traced TorchScript.

What this takes is optional (``pip install -e .[deploy]``) and imported where it is needed;
``missing`` says what is not there. ``runtimes`` runs the files. Each runtime has a float file as
well, made with the same effort, for its int8 file to be compared with.
"""

import platform
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from blaze_utils.detector import Blaze, preprocess
from blaze_utils.int8.eager import X86, has_vnni
from blaze_utils.int8.pt2e import export_program, quantize_pt2e, sides
from blaze_utils.int8.runtimes import quiet_stderr

OUTPUTS = ("loc", "conf", "landm")


def missing(*packages: str) -> str | None:
    """Which of these packages is not installed here, as a sentence; None if all are."""
    absent = ", ".join(package for package in packages if find_spec(package) is None)
    hint = "cannot be imported here (make setup ALL=1, or pip install -e .[deploy])."
    return f"{absent} {hint}" if absent else None


def export_onnx(model: nn.Module, path: str | Path, outputs: Sequence[str] = OUTPUTS) -> None:
    """Write a float detector as ONNX, for inputs of any size in multiples of 16.

    The input is called ``image`` (float32 [1, 3, H, W], the mean subtracted); ``outputs`` are names
    for what the model gives, which is in evaluation mode.
    """
    options = {"input_names": ["image"], "output_names": list(outputs), "verbose": False}
    with warnings.catch_warnings():
        # The exporter names functions of its own that are about to go; nothing for its users.
        warnings.simplefilter("ignore")
        example = torch.zeros(1, 3, 256, 320)
        program = torch.onnx.export(
            model.eval(), (example,), dynamo=True, dynamic_shapes=(sides(),), **options
        )
    Path(path).write_bytes(program.model_proto.SerializeToString())


def export_int8_onnx(model: nn.Module, path: str | Path, outputs: Sequence[str] = OUTPUTS) -> None:
    """Write a converted eager int8 model as ONNX in QDQ format, with the integers that it has.

    Only the older exporter, which traces, knows the operators of eager int8 (that of ``fuse_add``
    aside). Arguments as for ``export_onnx``; the outputs' second dimension is left open.
    """
    axes = {"image": {2: "height", 3: "width"}, **{name: {1: "priors"} for name in outputs}}
    options = {"input_names": ["image"], "output_names": list(outputs), "dynamic_axes": axes}
    with warnings.catch_warnings(), quiet_stderr():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 3, 256, 320),), str(path), dynamo=False, **options)


def quantize_onnx(
    source: str | Path,
    target: str | Path,
    images: Iterable[np.ndarray | Tensor],
    unsigned: bool | None = None,
    symmetric: bool = False,
) -> None:
    """Quantize a float ONNX file with ONNX Runtime, into its QDQ format: weights per channel.

    On x86 without VNNI, where products of uint8 and int8 saturate, weights get 7 bits.

    Args:
        source: what ``export_onnx`` wrote.
        target: the int8 file to write.
        images: to calibrate with: uint8 [H, W, 3] BGR, or preprocessed float32 [1, 3, H, W].
        unsigned: activations as uint8, else as int8 (ONNX Runtime's default). None: uint8 on x86,
            where the fast kernels multiply uint8 by int8, and int8 elsewhere.
        symmetric: for TensorRT: int8 activations with zero point 0, weights of 8 bits, and float
            biases, as it refuses integers (https://github.com/microsoft/onnxruntime/issues/14229).
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    x86 = platform.machine() in X86
    unsigned = not symmetric and (x86 if unsigned is None else unsigned)
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"  # batch norms folded into the convolutions
        quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded),
            str(target),
            _reader(images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=not symmetric and x86 and not has_vnni(),
            extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
        )


def _reader(images: Iterable[np.ndarray | Tensor]):
    """The images in the form in which ONNX Runtime's calibration asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    tensors = (image if isinstance(image, Tensor) else preprocess(image)[0] for image in images)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(tensors, None)
            return None if image is None else {"image": image.numpy()}

    return Reader()


class _Maps(nn.Module):
    """The layers of a detector alone; gives the six maps of its heads, not joined.

    Joining asks for the maps' sizes. Where these are open, XNNPACK would leave the last
    convolutions, as something other than itself looks at their outputs.
    """

    def __init__(self, model: Blaze) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(level for head in self.model.maps(x) for level in head)


def export_pte(
    model: Blaze,
    path: str | Path,
    images: Iterable[np.ndarray | Tensor] | None = None,
    most: int = 640,
    example: Tensor | None = None,
) -> pd.DataFrame:
    """Write a detector as an ExecuTorch program for XNNPACK, quantized with PT2E or in float.

    The program gives six maps: those of loc at stride 8 and 16, then conf's, then landm's.

    Args:
        model: float, in evaluation mode.
        images: to calibrate with, as for ``quantize_pt2e``; None: the program stays float.
        most: largest side of an input in pixels; the program's memory is planned for it.
        example: fixes the size of the input, see ``export_program``; done in half the time.

    Returns:
        One row an operator, by ExecuTorch's devtools: how often XNNPACK took it
        (``occurrences_in_delegated_graphs``), and how often it was left to the portable kernels.
    """
    with quiet_stderr():  # its C++ part notes there how it looks at the processor
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower

        network: nn.Module = _Maps(model)
        if images is not None:
            config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
            quantizer = xnnpack.XNNPACKQuantizer().set_global(config)
            network = quantize_pt2e(network, images, quantizer)
        program = export_program(network, example, most)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        Path(path).write_bytes(lowered.to_executorch().buffer)
        graph = lowered.exported_program().graph_module
        return get_delegation_info(graph).get_operator_delegation_dataframe()


def trace_frozen(model: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Trace a detector, float or int8, in evaluation mode, and freeze its weights into the graph.

    ``torch.jit.save`` stores what comes out, and it loads without the model's Python code. Of the
    example, float32 [1, 3, H, W], the size does not matter: others run as well.
    """
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        frozen = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False))
        frozen(example)  # the first two calls optimise
        frozen(example)
    return frozen
