"""Measure all that the series ships, in turns; print it as a table.

    python -m maintainers.results [--readme]      --readme: put the table into README.md as well

On the 300 scenes of data/val: AP, and how far hard AP is from float's (95 %, paired bootstrap). On
ten of them: SQNR of the class scores in dB. On one, at 640 x 480: the time of a call with one
thread and with all (by the clock), float fused and frozen = 1. What cannot run here says why.
"""

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub, QuantStub, convert, get_default_qconfig, prepare

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from blaze_utils import detector, int8, measure  # noqa: E402
from blaze_utils.data import FaceFolder  # noqa: E402
from blaze_utils.int8 import export, pt2e, runtimes  # noqa: E402
from maintainers.tables import with_part  # noqa: E402

BUILD, README = ROOT / "build", ROOT / "README.md"
FLOAT = ROOT / "data" / "checkpoints" / "blaze_float.pth"
REFERENCE = "float, fused and frozen"
LAST = {"memory_format": torch.channels_last}
bytes_of = measure.stored_bytes


class Arm(nn.Module):
    """A detector of any kind, the bytes of its file, and the engine that is set when it is made."""

    def __init__(self, run: Callable, file: Path | int) -> None:
        super().__init__()
        self.run, self.engine = run, torch.backends.quantized.engine
        self.kilobytes = (file if isinstance(file, int) else file.stat().st_size) / 1024
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give loc, conf and landm."""
        torch.backends.quantized.engine = self.engine
        return self.run(x)


class Detour(detector.BlazeBlock):
    """The article's block: it leaves int8 for the addition and comes back."""

    def __init__(self, *sizes: int, **options: int) -> None:
        super().__init__(*sizes, **options)
        self.dequant, self.quant = DeQuantStub(), QuantStub()

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a quantized tensor."""
        h, x = self.conv(x), x if self.stride == 1 else self.shortcut(x)
        return self.quant(self.actvation(self.dequant(h) + self.dequant(x)))


def article() -> Arm:
    """Convert the network with the detour as the article does: not fused, not calibrated."""
    torch.backends.quantized.engine = "qnnpack"
    model = detector.load_float(FLOAT, lambda: detector.QuantizableBlaze(Detour))
    model.qconfig = get_default_qconfig("qnnpack")
    model = convert(prepare(model))
    return Arm(model, bytes_of(model))


@cache
def images() -> list:
    """Read the 32 scenes that everything is calibrated with."""
    scenes = FaceFolder(ROOT / "data" / "calibration")
    return [scenes[index].image for index in range(32)]


def eager(engine: str) -> nn.Module:
    """Quantize in eager mode for an engine, which is set."""
    return int8.quantize_static(detector.load_float(FLOAT), images(), engine)


def additions_fused() -> nn.Module:
    """Quantize with convolution, addition and ReLU in one operator, which onednn alone has."""
    torch.backends.quantized.engine = "onednn"
    model = detector.load_float(FLOAT, detector.QuantizableBlaze)
    model.fuse_model()
    int8.fuse_add(model)
    model.qconfig = int8.default_qconfig("onednn")
    int8.calibrate(prepared := prepare(model), images())
    return convert(prepared)


def frozen(model: nn.Module, x: Tensor) -> Arm:
    """Trace and freeze a model, for inputs in channels_last."""
    module, path = export.trace_frozen(model.to(**LAST), x.contiguous(**LAST)), BUILD / "frozen.pt"
    torch.jit.save(module, path)
    return Arm(lambda x: module(x.contiguous(**LAST)), path)


def compact(model: nn.Module, path: Path = BUILD / "int8.safetensors") -> Arm:
    """Store a model in a compact file, and run what that holds."""
    int8.save_int8(model, path)
    return Arm(int8.load_int8(path), path)


@cache
def graph() -> nn.Module:
    """Quantize by export."""
    return pt2e.quantize_pt2e(detector.load_float(FLOAT), images())


@cache
def onnx() -> Path:
    """Quantize with ONNX Runtime, into a file."""
    export.export_onnx(detector.load_float(FLOAT), BUILD / "float.onnx")
    export.quantize_onnx(BUILD / "float.onnx", BUILD / "int8.onnx", images())
    return BUILD / "int8.onnx"


def variants(x: Tensor, threads: int) -> dict[str, Arm | str]:
    """Make every variant for inputs like ``x``, or say in a sentence why it cannot run here."""
    best, model = int8.default_engine(), detector.load_float(FLOAT)
    fused = detector.load_float(FLOAT, detector.QuantizableBlaze)
    fused.fuse_model()
    makers = {
        REFERENCE: lambda: frozen(fused, x),
        "float, eager": lambda: Arm(model, FLOAT),
        "int8 as in the article": article,
        "fused, calibrated": lambda: compact(eager("qnnpack")),
        f"the same on {best}, frozen": lambda: frozen(eager(best), x),
        "on onednn, additions fused, frozen": lambda: frozen(additions_fused(), x),
        "PT2E, compiled": lambda: Arm(pt2e.lower(graph(), x, threads=threads), bytes_of(graph())),
        "ONNX Runtime": lambda: Arm(runtimes.onnx_runtime(onnx(), threads), onnx()),
    }
    arms: dict[str, Arm | str] = {}
    for name, make in makers.items():
        torch.backends.quantized.engine = best
        try:
            arms[name] = make()
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            arms[name] = str(error).splitlines()[0].replace(f"{ROOT}/", "")
    return arms


def times(x: Tensor, threads: int) -> dict[str, float]:
    """Time all variants in turns, as multiples of the reference; in a process of its own.

    The engine qnnpack keeps for good the number of threads that it has found at its first call.
    """
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    arms = {name: arm for name, arm in variants(x, threads).items() if isinstance(arm, Arm)}
    table = measure.compare(arms, x, threads=threads, rounds=20, min_run_time=4.0)
    print(f"==> {REFERENCE}, {threads} threads: {table.median_ms[REFERENCE]:.1f} ms", flush=True)
    return dict(table.median_ms / table.median_ms[REFERENCE])


def table() -> str:
    """Measure everything; write a Markdown table with a row for each variant."""
    val, threads = FaceFolder(ROOT / "data" / "val"), torch.get_num_threads()
    large = detector.preprocess(cv2.resize(val[24].image, (640, 480)))[0]
    one, every = (
        ProcessPoolExecutor(1, get_context("spawn")).submit(times, large, count).result()
        for count in (1, threads)
    )
    inputs = [detector.preprocess(val[index].image)[0] for index in range(0, len(val), 30)]
    truth, arms = measure.ground_truth(val), variants(inputs[0], 1)
    exact = detector.predict(arms[REFERENCE], val)
    head = f"| AP easy / medium / hard | hard − float | SQNR | KB | 1 thread | {threads} threads"
    lines = [f"| {head} |", "| --- | :-: | :-: | --: | --: | --: | --: |"]
    for name, arm in arms.items():
        if not isinstance(arm, Arm):
            lines.append(f"| {name} | *{arm}* | | | | | |")
            continue
        found = detector.predict(arm, val)
        ap = " / ".join(f"{value:.3f}" for value in measure.widerface_ap(found, truth).values())
        step, low, high = measure.ap_difference(exact, found, truth).loc["hard"]
        sqnr = measure.head_sqnr(arms[REFERENCE], arm, inputs)["conf"].round() + 0.0  # no "-0"
        cells = [name, ap, f"{step:+.3f} [{low:+.3f}, {high:+.3f}]", f"{sqnr:.0f}"]
        cells += [f"{arm.kilobytes:.0f}", f"{one[name]:.2f}", f"{every[name]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # what PyTorch deprecates is the series' subject
    BUILD.mkdir(exist_ok=True)
    result = table()
    print(result)
    if "--readme" in sys.argv:
        page = with_part(README.read_text(encoding="utf-8"), "results", result)
        README.write_text(page, encoding="utf-8", newline="\n")
