"""From a model and examples of its inputs to a decision: ``assess`` tries the ways to int8.

Each way makes a file that loads without this package, is compared with the float model in its
outputs, and is timed beside float arms of equal effort (traced and frozen, compiled, ONNX Runtime),
all by the protocol of ``measure.compare``. A way that fails is a row with a sentence.
"""

import copy
import json
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.ao.quantization as tq
from torch import Tensor, nn
from tqdm import tqdm

from blaze_utils.measure import approx, compare, sqnr

from .findings import WEIGHTED, diagnose
from .trials import GOOD, first_sentence, tensors, undisturbed

FASTER = 0.95
"""So much of the best float arm's time int8 may take at most, to be worth it."""
AGREE = 0.95
"""So large a share of the inputs must have the same first class, if outputs are class scores."""
RULE = (
    f"int8 if every output has {GOOD:.0f} dB against float, class scores agree on {AGREE:.0%} of "
    f"the inputs, and it takes at most {FASTER:.0%} of the time of the best float arm"
)
DYNAMIC = {nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell}
ROUND, ROUND_WEIGHT = tq.default_fake_quant, tq.default_per_channel_weight_fake_quant
ROUND = ROUND.with_args(observer=tq.MinMaxObserver, reduce_range=False)
WORST = 5
MEASURED = {"NOT_FUSED", "FUNCTIONAL_RELU", "ACTIVATION_NOT_FUSABLE", "LOW_SQNR"}
"""What ``diagnose`` says of an eager model that can be tried all the same."""
COLUMNS = ("decibels", "same_class", "ratio", "cpu_ms", "megabytes", "seconds_to_make")
COLUMNS += ("seconds_to_load", "why_not", "file")
Loader = Callable[[], Callable]


@dataclass
class Assessment:
    """What came of it.

    Attributes:
        about: the model, its inputs, and what to keep in mind.
        ways: one row a way: ``decibels`` (SQNR of the worst output), ``same_class`` (share of the
            inputs with the same largest score), ``cpu_ms``, ``ratio`` (time over the float
            model's), ``megabytes`` and ``file``, ``seconds_to_make`` (with calibration
            and compilation) and ``seconds_to_load``; ``why_not``.
        outputs: SQNR of every output, a row a way.
        worst: SQNR with one layer in int8, of the layers that cost most.
        verdict: one sentence, by ``RULE``.
        file: of the way chosen; None for "stay in float".
    """

    about: str
    ways: pd.DataFrame
    outputs: pd.DataFrame
    worst: pd.Series
    verdict: str
    file: Path | None

    def _shown(self) -> pd.DataFrame:
        table = approx(self.ways.drop(columns="file"), 2).astype(str)
        return table.replace(["≈ nan", "nan", "None"], "")

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} (≈ {value:.0f} dB)" for name, value in self.worst.items())
        table = self._shown().to_string(max_colwidth=60)
        return f"{self.about}\n{table}\nWhere it hurts: {parts}\n{self.verdict}\nRule: {RULE}."

    def _repr_html_(self) -> str:
        parts = approx(self.worst.to_frame("dB, alone in int8"), 2).to_html()
        page = f"<p>{self.about}</p>{self._shown().to_html()}<p>Where it hurts:</p>{parts}"
        return f"{page}<p><b>{self.verdict}</b> Rule: {RULE}.</p>"

    def to_json(self) -> str:
        """All of it, for programs."""
        found = {**vars(self), "rule": RULE}
        for key in ("ways", "outputs", "worst"):  # pandas writes what is no number as null
            found[key] = json.loads(found[key].to_json(orient="index", default_handler=str))
        return json.dumps(found, indent=1, default=str)


class Flat(nn.Module):
    """The model with its outputs as a tuple of tensors, whatever it nests them in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The tensors among the outputs."""
        return tuple(tensors(self.model(x)))


class Bench:
    """The model, its inputs, and the ways to try: each gives what loads a function, and a file."""

    def __init__(self, model: nn.Module, inputs: list[Tensor], folder: Path, threads: int) -> None:
        self.model, self.inputs, self.folder, self.threads = model, inputs, folder, threads
        self.flat, self.example = Flat(model).eval(), inputs[0]
        self.expected = [self.flat(x) for x in inputs]
        self.worst = pd.Series(dtype=float)

    def traced(self, model: nn.Module, name: str) -> tuple[Loader, Path]:
        """A model as frozen TorchScript."""
        from blaze_utils.int8.export import trace_frozen

        path = self.folder / f"{name}.pt"
        torch.jit.save(trace_frozen(model, self.example), path)
        return lambda: torch.jit.load(path), path

    def float_compiled(self) -> tuple[Loader, None]:
        """Float, compiled with frozen weights."""
        from blaze_utils.int8 import pt2e

        compiled = pt2e.lower(self.flat, self.example, threads=self.threads)
        return lambda: compiled, None

    def float_onnx(self) -> tuple[Loader, Path]:
        """Float, in ONNX Runtime."""
        from blaze_utils.int8.runtimes import onnx_runtime, quiet_stderr

        path = self.folder / "float.onnx"
        with warnings.catch_warnings(), quiet_stderr():
            warnings.simplefilter("ignore")
            options = {"input_names": ["image"], "dynamo": True, "verbose": False}
            program = torch.onnx.export(self.flat, (self.example,), **options)
        path.write_bytes(program.model_proto.SerializeToString())
        return lambda: onnx_runtime(path, self.threads), path

    def eager(self) -> tuple[Loader, Path]:
        """Eager mode, as the model is; fused as ``diagnose`` says."""
        findings = diagnose(self.model, self.example)
        codes = {found.code for found in findings} - MEASURED
        if codes:
            raise RuntimeError(f"diagnose has {len(findings)} findings: {', '.join(sorted(codes))}")
        model = copy.deepcopy(self.model)
        for found in findings:
            if found.chains:
                tq.fuse_modules(model, [list(chain) for chain in found.chains], inplace=True)
        model.qconfig = tq.get_default_qconfig(torch.backends.quantized.engine)
        tq.prepare(model, inplace=True)
        for x in self.inputs:
            model(x)
        return self.traced(Flat(tq.convert(model)).eval(), "eager")

    def pt2e_graph(self, in_float: Iterable[str] = ()) -> nn.Module:
        """What export (PT2E) makes of the model; it computes in float what int8 will give."""
        from blaze_utils.int8 import pt2e

        quantizer = pt2e.inductor_quantizer()
        for part in in_float:
            quantizer.set_module_name_qconfig(f"model.{part}", None)
        return pt2e.quantize_pt2e(self.flat, self.inputs, quantizer, self.example)

    def pt2e(self, in_float: Iterable[str] = (), name: str = "pt2e") -> tuple[Loader, Path]:
        """By export (PT2E), compiled."""
        from blaze_utils.int8 import pt2e

        path = self.folder / f"{name}.pt2"
        pt2e.package(self.pt2e_graph(in_float), path, self.example, self.threads)
        return lambda: torch._inductor.aoti_load_package(str(path)), path

    def dynamic(self) -> tuple[Loader, Path]:
        """Weights in int8, of linear and recurrent layers only."""
        if not any(type(module) in DYNAMIC for module in self.model.modules()):
            raise RuntimeError("there is no linear or recurrent layer")
        return self.traced(Flat(tq.quantize_dynamic(self.model, DYNAMIC)).eval(), "dynamic")

    def onnx(self) -> tuple[Loader, Path]:
        """ONNX Runtime's own quantization."""
        from blaze_utils.int8.export import quantize_onnx
        from blaze_utils.int8.runtimes import onnx_runtime

        path = self.folder / "int8.onnx"
        quantize_onnx(self.folder / "float.onnx", path, self.inputs)
        return lambda: onnx_runtime(path, self.threads), path

    def quality(self, function: Callable, most: int = 1000) -> tuple[dict[str, float], float]:
        """SQNR of each output, and the share of inputs with the same largest class score."""
        results = (tensors(function(x)) for x in self.inputs[:most])
        pairs, found = list(zip(self.expected, results, strict=False)), {}
        for number, expected in enumerate(self.expected[0]):
            if expected.is_floating_point():
                want, got = (torch.cat([p[i][number].flatten() for p in pairs]) for i in (0, 1))
                found[f"output {number}"] = sqnr(want, got)
        scores = self.expected[0][0]
        if len(self.expected[0]) > 1 or scores.dim() != 2 or not scores.is_floating_point():
            return found, np.nan
        same = [want[0].argmax(1) == got[0].argmax(1) for want, got in pairs]
        return found, float(torch.cat(same).float().mean())

    def attempt(self, way: Callable) -> tuple[dict, dict[str, float], Callable | None]:
        """A way's row, the SQNR of its outputs, and what to time; what it raises is its row."""
        start, row = time.perf_counter(), {}
        try:
            load, path = way(self)
            row = {"file": path, "seconds_to_make": time.perf_counter() - start}
            function = load()
            row["seconds_to_load"] = time.perf_counter() - start - row["seconds_to_make"]
            outputs, row["same_class"] = self.quality(function)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1].name
            said = first_sentence(error) + f" in {where}" * (not str(error))
            return {"why_not": said}, {}, None
        row["megabytes"] = path.stat().st_size / 1e6 if path else np.nan
        row["decibels"] = min(outputs.values(), default=np.nan)
        return row, outputs, function

    def alone(self, name: str) -> float:
        """SQNR of the worst output with one layer's input and weight rounded to 8 bits."""
        layer = self.model.get_submodule(name)
        weight, layer.weight.data = layer.weight.data, ROUND_WEIGHT()(layer.weight.data)
        handle = layer.register_forward_pre_hook(lambda _, args: (ROUND()(args[0]), *args[1:]))
        found = min(self.quality(self.flat, most=2)[0].values(), default=np.nan)
        handle.remove()
        layer.weight.data = weight
        return found


PARTS = f"int8, PT2E, {WORST} parts in float"
WAYS = {
    "float, as it is": lambda bench: (lambda: bench.flat, None),
    "float, traced and frozen": lambda bench: bench.traced(bench.flat, "float"),
    "float, compiled": Bench.float_compiled,
    "float, ONNX Runtime": Bench.float_onnx,
    "int8, eager": Bench.eager,
    "int8, PT2E compiled": Bench.pt2e,
    PARTS: lambda bench: bench.pt2e(bench.worst.index, "pt2e_parts_in_float"),
    "int8, dynamic": Bench.dynamic,
    "int8, ONNX Runtime": Bench.onnx,
}


def assess(
    model: nn.Module,
    inputs: Tensor | Iterable[Tensor],
    folder: str | Path | None = None,
    threads: int = 1,
    min_run_time: float = 1.0,
    ways: Sequence[str] = (),
) -> Assessment:
    """Is int8 worth it for this network on this machine, and by which way?

    Args:
        model: takes one tensor; it is not changed.
        inputs: float32, each of the same shape, as the model gets them: for calibration and for
            comparison. 16 or more real ones make a judgement; with random ones only the times and
            the order of the ways can be trusted.
        folder: for the files; None takes a temporary one.
        threads: of each arm.
        min_run_time: seconds for which each arm is timed.
        ways: names of ``WAYS``; none takes all. The first must be among them.

    Raises:
        ValueError: no inputs, or of several shapes. What a way raises is a row of the table.
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else [x for x in inputs]
    if len({x.shape for x in inputs}) != 1:
        raise ValueError("inputs: expected tensors, all of one shape")
    folder = Path(tempfile.mkdtemp() if folder is None else folder)
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [x.detach().cpu() for x in inputs]
    about = f"{type(model).__name__}, {len(inputs)} inputs {list(inputs[0].shape)}"
    with undisturbed():
        model = copy.deepcopy(model).cpu()
        if _warm_up(model, inputs):
            about += "; batch norms had seen nothing, and saw these inputs first: random weights?"
        bench = Bench(model.eval(), inputs, folder, threads)
        chosen = {name: WAYS[name] for name in ways or WAYS}
        layers = [n for n, m in model.named_modules() if isinstance(m, WEIGHTED)]
        layers = [] if ways and PARTS not in chosen else layers
        alone = {name: bench.alone(name) for name in tqdm(layers, desc="layers", leave=False)}
        bench.worst = pd.Series(alone, dtype=float).sort_values().head(WORST)
        functions, rows, outputs = {}, {}, {}
        for name, way in (bar := tqdm(chosen.items(), leave=False)):
            bar.set_description(name)
            rows[name], outputs[name], function = bench.attempt(way)
            functions |= {name: function} if function else {}
        times = compare(functions, bench.example, threads=threads, min_run_time=min_run_time)
    ways = pd.DataFrame.from_dict(rows, orient="index").join(times[["cpu_ms", "ratio"]])
    ways = ways.reindex(columns=COLUMNS)
    verdict, file = decide(ways)
    tables = ways, pd.DataFrame.from_dict(outputs, orient="index"), bench.worst
    return Assessment(about, *tables, verdict, file)


def _warm_up(model: nn.Module, inputs: list[Tensor]) -> bool:
    """Show batch norms that never saw anything some batches, without which activations die."""
    norms = [m for m in model.modules() if getattr(m, "num_batches_tracked", None) is not None]
    if not norms or any(int(norm.num_batches_tracked) for norm in norms):
        return False
    model.eval()
    batch = torch.cat(inputs[:8] if len(inputs) > 1 else [inputs[0], inputs[0].flip(-1)])
    for norm in norms:  # of all else, dropout and auxiliary heads do harm in training mode
        norm.train()
        norm.momentum = None  # the mean of all batches, not a moving one
    for _ in range(2):
        model(batch)
    return True


def decide(ways: pd.DataFrame) -> tuple[str, Path | None]:
    """The verdict by ``RULE`` and the file of the way chosen, from ``Assessment.ways``."""
    is_int8 = ways.index.str.startswith("int8")
    best = ways[~is_int8].ratio.idxmin()
    int8 = ways[is_int8 & ways.ratio.notna()]
    good = int8[(int8.decibels >= GOOD) & ~(int8.same_class < AGREE)]
    if int8.empty:
        return "Stay in float: no way to int8 works.", None
    if good.empty:
        name = int8.decibels.fillna(-np.inf).idxmax()
        left = f"the best, {name}, has ≈ {int8.decibels[name]:.0f} dB"
        return f"Stay in float, because no way keeps the outputs: {left}.", None
    name = good.ratio.idxmin()
    relative = good.ratio[name] / ways.ratio[best]
    time_ = f"≈ {relative:.2f} of the time of {best!r}"
    if relative > FASTER:
        small = good.megabytes.idxmin()
        size = f"for a small file take {small!r} (≈ {good.megabytes[small]:.1f} MB)"
        slow = f"the fastest way that keeps the outputs, {name!r}, takes {time_}"
        return f"Stay in float, because {slow}; {size}.", None
    quality = f"≈ {good.decibels[name]:.0f} dB, ≈ {good.megabytes[name]:.1f} MB"
    return f"Take {name!r}: {time_}, {quality}.", good.file[name]
