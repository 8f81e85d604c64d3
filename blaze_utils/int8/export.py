"""Detectors as files for other runtimes: ONNX, ExecuTorch, traced TorchScript.

The packages that this takes are optional (``pip install blaze_utils[deploy]``) and imported where
they are needed; ``missing`` says which are not there. ``runtimes`` runs the files.
"""

from __future__ import annotations

import platform
import tempfile
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from blaze_utils.detector.finding import preprocess
from blaze_utils.files import write_atomically
from blaze_utils.detector.model import Blaze
from blaze_utils.int8.runtimes import quiet_stderr
from blaze_utils.int8.pt2e import X86, has_vnni, quantize_pt2e, sides

OUTPUTS = ("loc", "conf", "landm")


def missing(*packages: str) -> str | None:
    """Which of these packages is not installed here, as a sentence; None if all are."""
    absent = [package for package in packages if find_spec(package) is None]
    if not absent:
        return None
    return f"{', '.join(absent)} cannot be imported here (pip install blaze_utils[deploy])."


def export_onnx(model: nn.Module, path: str | Path) -> None:
    """Write a float detector as ONNX, for inputs of any size in multiples of 16.

    The input is called ``image`` (float32 [1, 3, H, W], the mean subtracted), the outputs ``loc``,
    ``conf`` and ``landm``.

    Args:
        model: in evaluation mode. Not an int8 one: those have no exporter.
    """
    with warnings.catch_warnings():
        # The exporter names functions of its own that are about to go; nothing for its users.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(), (torch.zeros(1, 3, 256, 320),), dynamo=True, verbose=False,
            input_names=["image"], output_names=list(OUTPUTS), dynamic_shapes=(sides(),),
        )
    write_atomically(Path(path), program.model_proto.SerializeToString())


def quantize_onnx(
    source: str | Path,
    target: str | Path,
    images: Iterable[np.ndarray | Tensor],
    unsigned: bool | None = None,
) -> None:
    """Quantize a float ONNX file with ONNX Runtime, into its QDQ format: weights per channel.

    Args:
        source: what ``export_onnx`` wrote.
        target: the int8 file to write.
        images: to calibrate with: uint8 [H, W, 3] BGR, or preprocessed float32 [1, 3, H, W].
        unsigned: activations as uint8, else as int8 (ONNX Runtime's default). None: uint8 on x86,
            where the fast kernels multiply uint8 by int8, and int8 elsewhere.

    On x86 without VNNI, where products of such pairs saturate, weights get 7 bits.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    x86 = platform.machine() in X86
    unsigned = x86 if unsigned is None else unsigned
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"  # batch norms folded into the convolutions
        quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded), str(target), _reader(images), quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8, per_channel=True, reduce_range=x86 and not has_vnni(),
        )


def _reader(images: Iterable[np.ndarray | Tensor]):
    """The images in the form in which ONNX Runtime's calibration asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            if image is None:
                return None
            return {"image": (image if isinstance(image, Tensor) else preprocess(image)[0]).numpy()}

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
        loc, conf, landm = self.model.maps(x)
        return (*loc, *conf, *landm)


def export_pte(
    model: Blaze, path: str | Path, images: Iterable[np.ndarray | Tensor], most: int = 640
) -> None:
    """Quantize a float detector with PT2E for XNNPACK, and write it as an ExecuTorch program.

    The program gives six maps: those of loc at stride 8 and 16, then conf's, then landm's.

    Args:
        model: in evaluation mode.
        images: to calibrate with, as for ``quantize_pt2e``.
        most: largest side of an input in pixels; the program's memory is planned for it.
    """
    with quiet_stderr():  # its C++ part notes there how it looks at the processor
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.exir import to_edge_transform_and_lower

        config = get_symmetric_quantization_config(is_per_channel=True)
        int8 = quantize_pt2e(_Maps(model), images, XNNPACKQuantizer().set_global(config))
        example = torch.zeros(1, 3, most // 32 * 16, most)
        program = torch.export.export(int8, (example,), dynamic_shapes=(sides(most),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        write_atomically(Path(path), lowered.to_executorch().buffer)


def trace_frozen(model: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Trace a detector, float or int8, and freeze its weights into the graph.

    Args:
        model: in evaluation mode.
        example: float32 [1, 3, H, W]. Other sizes run as well.

    Returns:
        A module that ``torch.jit.save`` stores, and that loads without the model's Python code.
    """
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        frozen = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False))
        frozen(example)  # the first two calls optimise
        frozen(example)
    return frozen
