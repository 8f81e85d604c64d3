"""What stands between a model and a working int8 conversion: a trial decides, a table explains.

Whether something is a finding is decided by trying it (``trials``). ``CAUSES`` and the texts in
``findings.txt`` only say why, and what to write instead. A fix for modules is code that was run on
a copy, and the finding says how many decibels came of it.
"""

import copy
import html
import inspect
import json
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import FunctionType

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map

from . import checks, trials
from .checks import WRONG
from .trials import DEQUANT, GOOD, NAN, QUANT, SAME, Alone, Call, Run, Trial, attempt, type_of

# fmt: off
GALLERY, STUBS, ADD = "08_error_gallery", "03_quant_stubs", "04_residual_add"
FUSION, CALIBRATION, QAT = "05_fusion", "06_calibration", "07_qat"
CODES = {
    "NOT_EAGER": GALLERY, "NOT_COPYABLE": GALLERY, "ENGINE_MISSING": CALIBRATION,
    "ON_CUDA": STUBS, "NOT_FLOAT32": STUBS, "RUN_FAILED": GALLERY, "NO_STUBS": STUBS,
    "STUB_MISPLACED": STUBS, "TUPLE_IN_QUANTWRAPPER": STUBS, "UNSUPPORTED_MODULE": STUBS,
    "SWAPPED_MODULE": GALLERY, "WRONG_QCONFIG": CALIBRATION, "WRONG_KERNEL": GALLERY,
    "FUNCTIONAL_OP": ADD, "CAT_QUANTIZED": STUBS, "CLAMP_ON_QNNPACK": GALLERY,
    "SHARED_MODULE": ADD, "NO_QCONFIG": "02_naive_quantization", "FUNCTIONAL_RELU": FUSION,
    "ACTIVATION_NOT_FUSABLE": FUSION, "NOT_FUSED": FUSION, "TRAINING_MODE": FUSION,
    "FAKE_QUANT_OFF": QAT, "NOT_CALIBRATED": CALIBRATION, "LOW_SQNR": CALIBRATION,
    "TRIAL_FAILED": GALLERY,
}
"""Every code, with the notebook that teaches it, in the order in which a reader meets them."""


def _texts() -> dict[str, tuple[str, str, str]]:
    text, found = Path(__file__).with_name("findings.txt").read_text(encoding="utf-8"), {}
    entries = r"^\[(.+?)(?: ([A-Z][A-Z_0-9]+))?\](.*?)(?=^\[|\Z)"
    for key, code, body in re.findall(entries, text, re.M | re.S):
        lines = body.strip("\n").split("\n")
        said = " ".join(line.strip() for line in lines if not line.startswith("    "))
        fix = "\n".join(line[4:] for line in lines if line.startswith("    "))
        found[key] = code, said, fix
    return found


MESSAGES = _texts()
"""By a short name: code, explanation and fix."""
IN_FLOAT, IN_FLOAT_MANY = (MESSAGES[key][2] for key in ("in float", "in float many"))
OUTSIDE, AROUND, PACKED = (MESSAGES[key][2] for key in ("outside", "failed", "packed"))
UNTRAINED = ", but layers have no signal: random weights?"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
RECTIFIERS = (nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU)
JOINS = ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack")
CLAMPS = ("relu6", "hardtanh", "clamp", "clip")
CAUSES = {
    "parametrized": lambda m, t: parametrize.is_parametrized(m),
    "prelu": lambda m, t: type(m) is nn.PReLU,
    "embedding": lambda m, t: isinstance(m, (nn.Embedding, nn.EmbeddingBag)),
    "words": lambda m, t: isinstance(getattr(m, "padding", 0), str),
    "per channel": lambda m, t: isinstance(m, TRANSPOSED) and "er channel" in t.error,
    "recurrent": lambda m, t: isinstance(m, RECURRENT) and type(m) is not nn.LSTM,
    "unlike": lambda m, t: "createStatus" in t.error,
    "storing": lambda m, t: t.step == "storing" and t.error,
    "swapped": lambda m, t: t.bad == "swapped",
    "wrong": lambda m, t: t.bad == "wrong",
    "small": lambda m, t: t.bad == "low" and t.small,
    "subclass": lambda m, t: t.error and any(k in trials.SWAPPED for k in type(m).__mro__[1:]),
    "no kernel": lambda m, t: "uantized" in t.error,
    "unknown": lambda m, t: True,
}
"""For a module and its trial, from the particular to the general: which text says why."""
BAD = {"error": "UNSUPPORTED_MODULE", "swapped": "SWAPPED_MODULE", "wrong": "WRONG_KERNEL",
    "low": "LOW_SQNR"}
TRIED = 8  # a fix is tried on so many of the modules that it is for
# fmt: on


@dataclass(frozen=True)
class Finding:
    """One thing that stands between a model and int8.

    Attributes:
        code: one of ``CODES``; stable, for programs.
        module: dotted name of the module concerned, as ``get_submodule`` takes it; "" is the model.
        explanation: what is wrong and what follows from it; figures as "≈ 13 dB".
        fix: Python code. One about ``model`` can be run as it is, before ``prepare``; one about
            ``self`` is an edit of the class.
        notebook: stem of the notebook that teaches it.
        chains: of NOT_FUSED, the lists of names that ``fuse_modules`` takes.
    """

    code: str
    module: str
    explanation: str
    fix: str
    notebook: str
    chains: tuple[tuple[str, ...], ...] = ()


def finding(key: str, module: str, chains: Iterable = (), **facts) -> Finding:
    """A finding with a text of ``MESSAGES``."""
    code, text, fix = MESSAGES[key]
    texts = text.format(**facts), fix.format(**facts)
    return Finding(code, module, *texts, CODES[code], tuple(map(tuple, chains)))


class Findings(list[Finding]):
    """A list of ``Finding``, which prints as a table; those that differ in the module share a row.

    Attributes:
        title: the first line of the table.
        decibels: SQNR of the model tried in int8 on this engine; NaN if that was not possible.
    """

    def __init__(
        self, findings: Iterable[Finding], about: str, decibels: float, note: str = ""
    ) -> None:
        super().__init__(sorted(dict.fromkeys(findings), key=lambda f: list(CODES).index(f.code)))
        count = f"{len(self) or 'no'} finding{'s' * (len(self) != 1)}"
        tried = f"; tried in int8: ≈ {decibels:.0f} dB" if decibels == decibels else ""
        self.title, self.decibels = f"{about}: {count}{tried}{note}", decibels

    def to_frame(self) -> pd.DataFrame:
        """One row a finding, in the order of the list; columns as the attributes of ``Finding``."""
        return pd.DataFrame(map(vars, self), columns=[field.name for field in fields(Finding)])

    def _table(self) -> pd.DataFrame:
        def shown(names):
            names = [name or "(model)" for name in names]
            return ", ".join(names[:3]) + f", ... ({len(names)} modules)" * (len(names) > 3)

        def cut(fix):
            lines = fix.split("\n")
            more = [f"... {len(lines) - 7} more lines"] if len(lines) > 8 else []
            return "\n".join([*lines[:7], *more] if more else lines)

        alike = ["code", "explanation", "fix", "notebook"]
        table = self.to_frame().groupby(alike, sort=False).module.agg(shown).reset_index()
        return table.assign(fix=table.fix.map(cut))[["code", "module", *alike[1:]]]

    def __repr__(self) -> str:
        lines = [self.title]
        for row in self._table().itertuples():
            texts = f"{row.code}  {row.module}", f"{row.explanation} [{row.notebook}]"
            lines += ["-" * 100, *(textwrap.fill(text, 100) for text in texts)]
            lines.append(textwrap.indent(row.fix, "    "))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table = self._table().map(html.escape)
        table["fix"] = "<pre>" + table.fix + "</pre>"
        table["notebook"] = [f'<a href="{name}.ipynb">{name}</a>' for name in table.notebook]
        rows = table.to_html(escape=False, index=False, justify="left") if len(table) else ""
        return f"<p>{html.escape(self.title)}</p>\n{rows}"


def diagnose(
    model: nn.Module, example_inputs: Tensor | tuple | list | dict, kwargs: dict | None = None
) -> Findings:
    """What stands between a model and a working int8 conversion in eager mode, on this engine.

    Copies of the model run on the CPU, in evaluation mode and without gradients: in float, and
    taken through prepare, calibration with the example, convert and int8, as a whole and module by
    module. Of a model that is converted or prepared for QAT only what comes next is tried:
    diagnose the float model to see all places at once. The model itself is only read.

    Args:
        model: any eager module, at any stage from float to converted, on any device.
        example_inputs: what to call it with: a tensor, a tuple of the arguments, or a dictionary of
            arguments by name. A list is one argument, as torchvision's detectors take it.
        kwargs: further arguments by name.

    Returns:
        Findings in the order in which a reader would meet them; none if int8 was tried and is
        right. A model that does not run is a finding, not an exception.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    about = type(model).__name__
    with trials.undisturbed():
        obstacle = next(out_of_scope(model), None)
        if obstacle is not None:
            return Findings([obstacle], about, NAN)
        examination = Examination(model, arguments(model, example_inputs, kwargs))
        found = list(examination.findings())
    about, whole = f"{about}, {examination.stage}", examination.whole
    return Findings(found, about, whole.decibels, UNTRAINED * examination.untrained)


def arguments(model: nn.Module, inputs, kwargs: dict | None) -> tuple[tuple, dict]:
    """Positional and keyword arguments: copies, float32, on the CPU."""
    args, kwargs = inputs if isinstance(inputs, tuple) else (inputs,), kwargs or {}
    if isinstance(inputs, dict):
        names = inspect.signature(model.forward).parameters.keys()
        args, kwargs = ((), inputs | kwargs) if inputs.keys() <= names else (args, kwargs)

    def on_cpu(leaf):
        leaf = leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf
        return leaf.float() if trials.is_real(leaf) else leaf

    return tree_map(on_cpu, (args, kwargs))


def out_of_scope(model: nn.Module) -> Iterator[Finding]:
    """Findings for a model that is not an eager one, or cannot be copied."""
    for name, module in model.named_modules():
        if what := foreign(module):
            yield finding("scope", name, what=what)
        elif isinstance(vars(module).get("forward"), FunctionType):
            yield finding("forward", name)
    try:
        copy.deepcopy(model).cpu()
    except Exception as error:
        names = [name for name, module in model.named_modules() if hasattr(module, "weight_g")]
        facts = {"error": trials.first_sentence(error), "names": json.dumps(names)}
        yield finding("weight_g" if names else "copy", "".join(names[:1]), **facts)


def foreign(module: nn.Module) -> str:
    """What a module is that eager static quantization does not know; "" for others."""
    path = type(module).__module__
    if isinstance(module, torch.jit.ScriptModule):
        return "a ScriptModule"
    if isinstance(module, torch.fx.GraphModule):
        targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
        exported = any(isinstance(target, torch._ops.OpOverload) for target in targets)
        observed = any(map(checks.is_observer, module.modules()))
        if exported or observed or torch.quantize_per_tensor in targets:
            return "a graph that torch.export or FX has made"
    if any(type(t).__module__.startswith("torchao") for t in module.parameters(recurse=False)):
        return "quantized by torchao"
    return "quantized dynamically" if path.startswith("torch.ao.nn") and "dynamic" in path else ""


def _holders(wrong, what: str):
    """A check that no module holds a tensor that is ``wrong``."""

    def check(model: nn.Module) -> None:
        modules = model.named_modules()
        own = {n: [*m.parameters(recurse=False), *m.buffers(recurse=False)] for n, m in modules}
        checks.fail_for([name for name, tensors in own.items() if any(map(wrong, tensors))], what)

    return check


def _has_qconfig(model: nn.Module) -> None:
    qconfigs = [module.qconfig for module in model.modules() if hasattr(module, "qconfig")]
    if hasattr(model, "qconfig") and not any(qconfigs):
        checks.assert_prepared(model)


def _evaluates(model: nn.Module) -> None:
    if model.training:
        raise checks.CheckError("In training mode batch norms change what the observers see")


# fmt: off
PTQ, LATER = ("float", "prepared"), ("prepared for QAT", "converted")
FACTS = [
    ("cuda", PTQ, _holders(lambda t: t.device.type != "cpu", "not on the CPU")),
    ("dtype", PTQ, _holders(lambda t: isinstance(t, nn.Parameter) and t.dtype != torch.float32,
        "not float32")),
    ("qconfig", PTQ[:1], _has_qconfig), ("training", PTQ[1:], _evaluates),
    ("fake quant", LATER[:1], checks.assert_fake_quantized),
    ("norms left", LATER, checks.assert_no_batch_norm),
    ("calibration", PTQ[1:] + LATER, checks.assert_calibrated),
]
"""What is seen without a run: the text, at which stages, check."""
# fmt: on


class Examination:
    """One model examined: its run, its trials, and the findings that come of them.

    Attributes:
        plain: a copy of the model, in float without observers; one of a later stage as it is.
        run: its run; None at a later stage.
        whole: what became of the model in int8.
    """

    def __init__(self, model: nn.Module, inputs: tuple[tuple, dict]) -> None:
        self.model, self.inputs, self.stage = model, inputs, trials.stage_of(model)
        self.engine, self.whole, self.run = torch.backends.quantized.engine, Trial(), None
        self.untrained = False  # layers were tried that have no signal
        self.plain = copy.deepcopy(model).cpu().eval()
        if self.stage in PTQ:
            self.run = Run(trials.without_observers(self.plain).float(), inputs)

    def findings(self) -> Iterator[Finding]:
        """All of them."""
        if self.engine == "none":
            engines = [*torch.backends.quantized.supported_engines, "qnnpack"]
            yield finding("engine", "", engine=next(e for e in engines if e != "none"))
        if self.run is None:
            found = self.later()
        elif self.run.failure is not None:
            found = [self.failed(), *stubs(self.run), *operators(self.run)]
        else:
            norms, found = list(self.other_norms()), [*stubs(self.run), *operators(self.run)]
            found += self.attempts(found) if self.engine != "none" else []
            advice, bad = list(fusion(self.run, self.stage)), {f.module for f in found}
            clamps = {f.module for f in found if f.code == "CLAMP_ON_QNNPACK"}
            rectifiers = {f.module for f in advice if f.code == "ACTIVATION_NOT_FUSABLE"}
            said_twice = {"CLAMP_ON_QNNPACK": rectifiers, "ACTIVATION_NOT_FUSABLE": bad - clamps}
            found = [f for f in found + advice if f.module not in said_twice.get(f.code, ())]
            covered = tuple(f"{norm.module}." for norm in norms) or "/"
            found = [f for f in found if not f"{f.module}.".startswith(covered)]
            found = norms + list(filter(self.confirmed, found))
        yield from self.facts()
        yield from found

    def facts(self) -> Iterator[Finding]:
        """What is seen without a run."""
        called = self.whole.called if self.run is None else self.run.by_module
        for key, stages, check in FACTS:
            try:
                check(self.model) if self.stage in stages else None
            except checks.CheckError as error:
                names = {name.replace(".activation_post_process", "") for name in error.modules}
                if key == "calibration" and len(called) > 1:  # what is not used does no harm
                    names &= {*called}
                if names:
                    yield finding(key, names.pop() if len(names) == 1 else "", error=error)

    def failed(self) -> Finding:
        """The model itself does not run: why, and whether it runs with other arguments."""
        args, names = self.inputs[0], inspect.signature(self.plain.forward).parameters
        by_name = dict(zip(names, args, strict=False)) if len(args) <= len(names) else {}
        keys = ", ".join(f'"{name}": ...' for name in by_name)
        listed = args[0] if args and isinstance(args[0], list) else ()
        fix = "model.eval()(*example_inputs)  # must run before it can be quantized"
        ways = {"tuple(example_inputs)": (listed, {}), f"{{{keys}}}": ((), by_name)}
        for call, inputs in ways.items():
            with suppress(Exception):
                others, options = copy.deepcopy(inputs)
                copy.deepcopy(self.plain)(*others, **options)
                fix = f"diagnose(model, {call})  # tried: with these arguments it runs"
        said = f"{type(self.run.failure).__name__}: {trials.first_sentence(self.run.failure)}"
        return finding("run", self.run.failed_in, error=said, fix=fix)

    def later(self) -> list[Finding]:
        """About a model that is converted or prepared for QAT: what comes next is tried."""
        self.whole = whole = attempt(self.plain, self.inputs)
        if whole.error:
            return [finding("failed", whole.running[-1], step=whole.step, error=whole.error)]
        why, fix = MESSAGES["wrong"][1], "# from the float model, before prepare:\n" + IN_FLOAT
        found = [
            self.described(name, Trial(wrong={name: share}), why, "WRONG_KERNEL", fix, [name])
            for name, share in whole.wrong.items()
            if share > WRONG
        ]
        try:
            if self.stage == "converted" and not self.inputs[1]:
                checks.assert_cat_keeps_scales(self.plain, *copy.deepcopy(self.inputs[0]))
        except checks.CheckError as error:
            found.append(finding("cat converted", "", error=error))
        return found

    def other_norms(self) -> Iterator[Finding]:
        """Batch norms of another class (frozen, synchronized, with its ReLU) that can be folded."""
        groups = defaultdict(list)
        for name, module in self.plain.named_modules():
            keys = "running_mean", "running_var", "weight", "bias", "eps"
            mean, var, weight, bias, eps = (getattr(module, key, None) for key in keys)
            if type(module) in NORMS or mean is None or name not in self.run.given:
                continue
            x = checks.dequantized(tree_leaves(self.run.given[name])[0])
            norm = nn.functional.batch_norm(x, mean, var, weight, bias, eps=eps or 1e-5)
            ways = {"new": norm, "nn.Sequential(new, nn.ReLU())": norm.relu()}
            for part, activation in module.named_children():
                if f"{name}.{part}" in self.run.given:
                    ways[f"nn.Sequential(new, old.{part})"] = activation(norm)
            for new, same in ways.items():
                if trials.decibels(same, module(x)) > SAME:
                    groups[type(module).__name__, max(x.dim() - 2, 1), new].append(name)
                    break
        for (kind, dims, new), names in groups.items():
            facts = {"kind": kind, "dims": dims, "new": new, "names": json.dumps(names)}
            yield from (finding("norm", name, **facts) for name in names)

    def attempts(self, before: list[Finding]) -> list[Finding]:
        """What comes of taking the model, and its modules, to int8."""
        run, whole = self.run, Trial(error="there are no stubs")
        if run.has_stub:
            self.whole = whole = attempt(self.plain, self.inputs)
        low = whole.decibels < GOOD
        wrong = {name for name in run.units if whole.share(name) > WRONG}
        names = {n for n in run.units if type(run.modules[n]) in trials.CUSTOM} | wrong
        if whole.error or low:
            names |= run.units
            names |= {c.module for c in run.calls if c.builtin and (c.error or c.decibels < GOOD)}
        fused = {name for chain in run.chains() for name in chain[1:]}  # see NOT_FUSED
        names = (names & run.given.keys()) - run.stays_float - fused
        names -= {f.module for f in before if f.code == "STUB_MISPLACED"}
        names = {n for n in names if not isinstance(run.modules[n], QUANT + DEQUANT)}
        alone = {name: self.alone(name) for name in run.modules if name in names}
        fine = ("",) if whole.error or low else ("", "low")
        bad = {name: trial for name, trial in alone.items() if trial.bad not in fine}
        bad = {n: t for n, t in bad.items() if not any(n.startswith(f"{m}.") for m in bad)}
        found = list(self.explained(bad))
        found += [self.beside(name) for name in run.modules if name in wrong - bad.keys()]
        for call in run.calls if low else []:
            seen = call.builtin or call.op in JOINS or call.wrong > WRONG
            if call.decibels < GOOD and not seen:
                facts = {"op": call.op, "place": call.place, "decibels": call.decibels}
                found.append(finding("lossy", call.module, **facts))
        if run.has_stub and not found and {f.code for f in before} <= {"SHARED_MODULE"}:
            found += self.unexplained(alone, fused)
        return found

    def unexplained(self, alone: dict[str, Trial], fused: set[str]) -> Iterator[Finding]:
        """About a model that goes wrong though no module of it does."""
        whole, self.untrained = self.whole, any(trial.dead for trial in alone.values())
        if whole.error and not any(type(self.run.modules[n]) is nn.BatchNorm1d for n in fused):
            yield finding("failed", whole.running[-1], step=whole.step, error=whole.error)
        elif not whole.error and whole.decibels != whole.decibels:
            yield finding("failed", "", step="comparing", error="no finite number comes out")
        elif whole.bad == "low" and not self.untrained:
            lowest = sorted(alone, key=lambda name: alone[name].decibels)[:5]
            shown = ", ".join(f"{name} (≈ {alone[name].decibels:.0f} dB)" for name in lowest)
            fix, after = self.on_whole((IN_FLOAT, IN_FLOAT_MANY), lowest)
            yield finding("low", "", before=whole.decibels, after=after, lowest=shown, fix=fix)

    def confirmed(self, found: Finding) -> bool:
        """Whether the whole model, where it could be tried, has the wrong values of a finding."""
        if found.code not in ("WRONG_KERNEL", "CLAMP_ON_QNNPACK"):
            return True
        whole = self.whole
        return whole.share(found.module) > WRONG or whole.step != "int8" or bool(whole.error)

    def alone(self, name: str, fix: str = "") -> Trial:
        """One module tried, perhaps with a fix."""
        qconfig = self.run.qconfigs[name] or trials.engine_qconfig()
        model = Alone(self.plain.get_submodule(name), self.run.given[name], qconfig)
        leaves = tree_map(checks.dequantized, tree_leaves(self.run.given[name][0]))
        return attempt(model, (tuple(leaves), {}), fix.replace("{names}", '["unit"]'))

    def explained(self, bad: dict[str, Trial]) -> Iterator[Finding]:
        """Findings for modules whose trial went wrong, with a cause if one is known, and a fix."""
        groups = defaultdict(list)
        for name, trial in bad.items():
            module, (args, kwargs) = self.plain.get_submodule(name), self.run.given[name][0]
            given = [*args, *kwargs.values()]
            if any(isinstance(value, nn.utils.rnn.PackedSequence) for value in given):
                yield finding("packed", name, kind=type(module).__name__)
                continue
            cause = next(key for key, applies in CAUSES.items() if applies(module, trial))
            groups[type(module).__name__, trial.bad, trial.step, trial.error, cause].append(name)
        for (*_, cause), names in groups.items():
            _, why, own = MESSAGES[cause]
            worst = min((bad[name] for name in names), key=lambda trial: trial.decibels)
            fix, after = self.remedy(names, own)
            code = "UNSUPPORTED_MODULE" if own and cause != "small" else BAD[worst.bad]
            if "get_default_qconfig" in fix:
                code, why = "WRONG_QCONFIG", f"Its qconfig is not for {self.engine}"
            yield from (self.described(n, worst, why, code, fix, names, after) for n in names)

    def remedy(self, names: list[str], own: str) -> tuple[str, float]:
        """The first fix that makes all these modules right, else the last; its decibels."""
        family = "qnnpack" if self.engine == "qnnpack" else "x86"
        right = repr(trials.engine_qconfig(family))
        used = {repr(self.run.qconfigs[n] or trials.engine_qconfig()) for n in names}
        of_engine = MESSAGES["engine qconfig"][2].replace("{engine}", family)
        of_engine = "" if used == {right} else of_engine
        given = tree_leaves([self.run.given[name][0] for name in names])
        general = (IN_FLOAT, IN_FLOAT_MANY) if any(map(trials.is_quantized, given)) else (OUTSIDE,)
        for fix in filter(None, (own, of_engine, *general)):
            tried = [self.alone(name, fix) for name in names[:TRIED]]
            if not any(trial.bad for trial in tried):
                break
        return fix, min(trial.decibels for trial in tried)

    def beside(self, name: str) -> Finding:
        """A layer that is right alone and wrong in the model, because of what comes before it."""
        _, why, rounded_again = MESSAGES["saturated"]
        fix, after = self.on_whole((rounded_again, IN_FLOAT), [name], WRONG)
        wrong = Trial(wrong={name: self.whole.share(name)})
        return self.described(name, wrong, why, "WRONG_KERNEL", fix, [name], after)

    def on_whole(self, fixes: tuple, names: list[str], wrong: float = 1.0) -> tuple[str, float]:
        """The first fix after which the model runs and ``names`` are right; its decibels."""
        for fix in fixes:
            fix = fix.replace("{names}", json.dumps(names))
            trial = attempt(self.plain, self.inputs, fix)
            if not trial.error and all(trial.share(name) <= wrong for name in names):
                break
        return fix, trial.decibels

    def described(self, name, trial, why, code, fix, names, after=NAN) -> Finding:
        """A finding about a module that went wrong in a trial."""
        share = 100 * max(trial.wrong.values(), default=0)
        what = {
            "error": f'{trial.step} stops with "{trial.error}"',
            "swapped": f"after prepare ≈ {trial.in_float:.0f} dB against before, in float already",
            "wrong": f"on {self.engine} ≈ {share:.0f} % of what its kernel gives is more than one "
            "step beside exact arithmetic on the same integers",
            "low": f"int8 has ≈ {trial.decibels:.0f} dB against float",
        }[trial.bad]
        tried = f" The fix was tried: ≈ {after:.0f} dB." if after == after else ""
        text = f"{type(self.plain.get_submodule(name)).__name__}: {what}. {why}.{tried}"
        return Finding(code, name, text, fix.replace("{names}", json.dumps(names)), CODES[code])


def stubs(run: Run) -> Iterator[Finding]:
    """Where int8 begins and ends."""
    if not run.has_stub:
        yield finding("no stubs", "")
        return
    for name, module in run.modules.items():
        if isinstance(module, QUANT + DEQUANT) and name in run.stays_float:
            yield finding("stub float", name)
    if run.returns_int8:
        yield finding("returns int8", "")
    for call in (call for call in run.calls if call.unit and call.error):
        wrapped = call.error == "tuple" and call.module.endswith("dequant")
        yield finding(call.error, call.module.rpartition(".")[0] if wrapped else call.module)


def operators(run: Run) -> Iterator[Finding]:
    """What runs in int8 and has no kernel or a wrong one, or one scale for several tensors."""
    grouped, positions = defaultdict(list), run.positions()
    for call in (call for call in run.calls if not call.unit):
        facts = {"op": call.op, "place": call.place, "error": call.error}
        kind, position = type(run.modules[call.module]).__name__, positions[id(call)]
        if call.op in JOINS and len(set(call.scales)) > 1:
            fix = "self.cat = FloatFunctional()  # in __init__\nx = self.cat.cat(tensors, dim=1)"
            if position == "behind" or not call.op.startswith(("cat", "conc")):
                fix = f"x = torch.{call.op}([self.dequant(t) for t in tensors], dim=1)"
            yield finding("cat", call.module, **facts, fix=fix)
        elif call.error and call.builtin and call.module in run.stays_float:
            yield finding("stays float", call.module, **facts, kind=kind)
        elif call.error and not call.builtin:
            grouped[call.module, position].append(call)
        elif call.wrong > WRONG:
            clamp = call.op in CLAMPS and torch.backends.quantized.engine == "qnnpack"
            yield finding("clamp" if clamp else "kernel", call.module, **facts)
    for (module, position), calls in grouped.items():
        places = list(dict.fromkeys(f"{call.op} ({call.place})" for call in calls))
        if position == "between" and len(places) <= 3:
            yield from (operator(call, run) for call in calls)
            continue
        shown = ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
        where, fix = {
            "before": ("before the first layer", "x = self.quant(x)  # behind these operators"),
            "behind": ("behind the last layer", "x = self.dequant(x)  # before these operators"),
            "between": ("between int8 layers", AROUND),
        }[position]
        yield finding(
            "operators", module, position=where, places=shown, error=calls[0].error, fix=fix
        )
    for name, calls in run.by_module.items():
        module, count = run.modules[name], sum(call.unit for call in calls)
        if count > 1 and not isinstance(module, DEQUANT):
            yield finding("shared", name, kind=type(module).__name__, count=count)


# fmt: off
NEEDS_SCALE = "Its result needs a scale of its own, which a bare operator has no place to keep."
SYMBOLS = {"add": "+", "mul": "*", "matmul": "@", "bmm": "@"}
WITH_NUMBER = {
    "add": "add_scalar(x, number)", "sub": "add_scalar(x, -number)",
    "mul": "mul_scalar(x, number)", "div": "mul_scalar(x, 1 / number)",
}
WITH_TENSOR = {
    "add": "add(a, b)", "mul": "mul(a, b)", "matmul": "matmul(a, b)", "bmm": "matmul(a, b)",
    "cat": "cat([a, b], dim=1)", "concat": "cat([a, b], dim=1)",
}
AS_MODULE = {kind.__name__.lower(): kind.__name__ for kind in trials.SWAPPED}
AS_MODULE |= {"batchnorm": "BatchNorm2d", "instancenorm": "InstanceNorm2d"}
# fmt: on


def operator(call: Call, run: Run) -> Finding:
    """One operator between layers, and what to write instead of it."""
    op, why, user = call.op, "It has no int8 kernel.", run.only_user(call)
    written = (WITH_NUMBER if len(call.inputs) == 1 else WITH_TENSOR).get(op)
    if kind := AS_MODULE.get(op.replace("_", "")):
        why = f"Only the module nn.{kind} becomes int8, the function does not."
        fix = f"self.{op} = nn.{kind}(...)  # in __init__\nx = self.{op}(x)"
    elif "pack" in op:
        fix = PACKED
    elif op == "view":
        why, fix = "Int8 convolutions return tensors channels last.", "x = x.reshape(...)"
    elif written:
        why = NEEDS_SCALE
        if len(call.scales) < len(call.inputs):
            written = written.replace("b", "self.quant_2(b)")
        elif written == "add(a, b)" and user is not None and user.op == "relu":
            written = "add_relu(a, b)"
        name = ("skip_" if op == "add" else "") + written.partition("(")[0]
        fix = f"self.{name} = FloatFunctional()  # in __init__: one for each place\n"
        fix += f"x = self.{name}.{written}"
    else:
        fix = f"x = self.quant_2({op}(self.dequant(x)))  # in float, between two stubs"
    facts = {"op": SYMBOLS.get(op, op), "place": call.place, "why": why, "error": call.error}
    return finding("operator", call.module, **facts, fix=fix)


def fusion(run: Run, stage: str) -> Iterator[Finding]:
    """Chains that are not fused, and activations that cannot be."""
    chains = run.chains()
    if chains:
        listed = "\n".join(f"    {json.dumps(chain)}," for chain in chains)
        norms = sum(type_of(run.modules[name]) in NORMS for chain in chains for name in chain)
        again = "" if stage == "float" else "# again from the float model, before prepare:\n"
        count = f"{len(chains)} chain{'s' * (len(chains) > 1)}"
        yield finding("fuse", "", chains, count=count, norms=norms, again=again, listed=listed)
    fused = {name for chain in chains for name in chain}
    for call in run.calls:
        user = run.only_user(call)
        if user is None or type_of(run.modules[call.module]) not in WEIGHTED + TRANSPOSED + NORMS:
            continue
        kind, count = type_of(run.modules[user.module]), len(run.by_module[user.module])
        if kind in RECTIFIERS:
            wrong = ", and on qnnpack (Arm) gives values in the wrong places" * (kind is nn.ReLU6)
            yield finding("activation", user.module, kind=kind.__name__, wrong=wrong)
        elif kind is nn.ReLU and user.module not in fused and count > 1:
            yield finding("relu", user.module, count=count)
        elif user.op == "relu" and not user.builtin:
            yield finding("functional relu", user.module, place=user.place)
