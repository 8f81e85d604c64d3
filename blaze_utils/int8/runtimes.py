"""Run exported detectors, each behind the face of a ``Blaze``, so that ``detect`` and ``evaluate`` take it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from blaze_utils.detector.model import join_heads


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Let nothing reach stderr, from Python or C++: for libraries that take notes there."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class Runtime(nn.Module):
    """A detector that runs outside PyTorch's modules.

    Args:
        run: takes float32 [1, 3, H, W] as a numpy array and gives ``loc``, ``conf`` and ``landm`` as
            arrays or tensors.
        name: what ``repr`` says.
    """

    def __init__(self, run: Callable[[np.ndarray], Sequence[np.ndarray | Tensor]], name: str) -> None:
        super().__init__()
        self._run, self._name = run, name
        self.eval()

    def extra_repr(self) -> str:
        return self._name

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loc, conf, landm = (torch.as_tensor(output) for output in self._run(x.numpy()))
        return loc, conf, landm


def torchscript(path: str | Path, threads: int = 1) -> Runtime:
    """A ``.pt`` file of a traced module. The process has one number of threads for all of PyTorch:

    ``threads`` is noted only; ``benchmark`` and ``torch.set_num_threads`` set it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        module = torch.jit.load(path)
    return Runtime(lambda x: module(torch.from_numpy(x)), f"TorchScript, {threads} threads")


def onnx_runtime(path: str | Path, threads: int = 1) -> Runtime:
    """An ``.onnx`` file in ONNX Runtime, on the CPU, with so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Runtime(lambda x: session.run(None, {"image": x}), f"ONNX Runtime, {threads} threads")


def openvino(path: str | Path, threads: int = 1) -> Runtime:
    """An ``.onnx`` file in OpenVINO, on the CPU, with so many threads; float layers in float32."""
    from openvino import Core

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Its own choice would be bfloat16 on some processors: not what float is elsewhere.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = Core().compile_model(str(path), "CPU", settings).create_infer_request()

    def run(x: np.ndarray) -> list[np.ndarray]:
        # Copies: the request writes its next outputs over these.
        return [output.copy() for output in request.infer({"image": x}).values()]

    return Runtime(run, f"OpenVINO, {threads} threads")


def executorch(path: str | Path, threads: int = 1) -> Runtime:
    """A ``.pte`` program of ``export_pte`` in ExecuTorch, with so many threads; joins its maps.

    The number of threads holds for the programs loaded afterwards, in the whole process.
    """
    with quiet_stderr():
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime as Library

        _unsafe_reset_threadpool(threads)
        program = Library.get().load_program(Path(path))
        method = program.load_method("forward")

    def run(x: np.ndarray) -> Sequence[Tensor]:
        assert program is not None  # it must outlive its method
        maps = method.execute([torch.from_numpy(x)])
        # Joined, they are copies: the next run overwrites the program's memory.
        return join_heads((maps[0:2], maps[2:4], maps[4:6]))

    return Runtime(run, f"ExecuTorch, {threads} threads")
