"""Run exported detectors, each with the face of a ``Blaze``: ``detect``, ``evaluate`` take it."""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from blaze_utils.detector import join_heads


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Let nothing reach stderr, from Python, its loggers or C++: libraries take notes there."""
    kept, level = os.dup(2), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        logging.disable(level)


class Runtime(nn.Module):
    """A network that runs outside PyTorch's modules.

    Args:
        run: takes float32 [1, 3, H, W] as a numpy array and gives arrays or tensors.
        name: what ``repr`` says.
    """

    def __init__(
        self, run: Callable[[np.ndarray], Sequence[np.ndarray | Tensor]], name: str
    ) -> None:
        super().__init__()
        self._run, self._name = run, name
        self.eval()

    def extra_repr(self) -> str:  # noqa: D102
        return self._name

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        return tuple(torch.as_tensor(output) for output in self._run(x.numpy()))


def torchscript(path: str | Path, threads: int = 1) -> Runtime:
    """A ``.pt`` file of a traced module; ``torch.set_num_threads`` sets the threads, not this."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        module = torch.jit.load(path)
    return Runtime(lambda x: module(torch.from_numpy(x)), f"TorchScript, {threads} threads")


def packaged(path: str | Path, threads: int = 1) -> Runtime:
    """A ``.pt2`` file of ``pt2e.package``, which has set the threads of Inductor's own loops.

    An input of another size is a RuntimeError (``AOTI_RUNTIME_CHECK_INPUTS`` is set for that).
    """
    os.environ.setdefault("AOTI_RUNTIME_CHECK_INPUTS", "1")  # else it reads beyond a smaller input
    module = torch._inductor.aoti_load_package(str(path))
    return Runtime(lambda x: module(torch.from_numpy(x)), f"AOTInductor, {threads} threads")


def _session(path: str | Path, threads: int, signed: bool, optimised: Path | None = None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only
    # Threads that wait would spin, at the expense of whatever runs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.qdqisint8allowed", str(int(signed)))
    if optimised:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_runtime(path: str | Path, threads: int = 1, signed: bool = False) -> Runtime:
    """An ``.onnx`` file in ONNX Runtime, on the CPU, with so many threads.

    Args:
        signed: whether signed activations may stay so (``session.qdqisint8allowed``). Otherwise, on
            x86, ONNX Runtime makes them unsigned, and what then does not fit together stays float.
    """
    session = _session(path, threads, signed)
    name = session.get_inputs()[0].name
    return Runtime(lambda x: session.run(None, {name: x}), f"ONNX Runtime, {threads} threads")


def optimised_operators(path: str | Path, signed: bool = False) -> pd.Series:
    """The operators that ONNX Runtime makes of an ``.onnx`` file on this machine, and their counts.

    Most frequent first; ``QLinearConv`` is an int8 convolution, ``Conv`` a float one. ``signed`` as
    for ``onnx_runtime``.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        _session(path, 1, signed, optimised)
        nodes = onnx.load(optimised).graph.node
    names = pd.Series([node.op_type for node in nodes], dtype=object)
    return names.value_counts().sort_index().sort_values(ascending=False, kind="stable")


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
        return [output.copy() for output in request.infer([x]).values()]

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
