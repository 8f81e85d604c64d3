"""One thing that is wrong, ``Finding``, and the list of them that ``diagnose`` returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import pandas

from .table import as_html, as_text

CODES = {
    "NOT_EAGER": "08_error_gallery",
    "NOT_COPYABLE": "08_error_gallery",
    "ENGINE_MISSING": "06_calibration",
    "ON_CUDA": "03_quant_stubs",
    "RUN_FAILED": "08_error_gallery",
    "NOT_FOLLOWED": "08_error_gallery",
    "NO_STUBS": "03_quant_stubs",
    "STUB_MISPLACED": "03_quant_stubs",
    "TUPLE_IN_QUANTWRAPPER": "03_quant_stubs",
    "UNSUPPORTED_MODULE": "03_quant_stubs",
    "FUNCTIONAL_OP": "04_residual_add",
    "CAT_QUANTIZED": "03_quant_stubs",
    "CLAMP_ON_QNNPACK": "08_error_gallery",
    "SHARED_MODULE": "04_residual_add",
    "NO_QCONFIG": "02_naive_quantization",
    "TRAINING_MODE": "05_fusion",
    "BATCH_NORM_LEFT": "05_fusion",
    "FUNCTIONAL_RELU": "05_fusion",
    "ACTIVATION_NOT_FUSABLE": "05_fusion",
    "NOT_FUSED": "05_fusion",
    "PTQ_QCONFIG_IN_QAT": "07_qat",
    "FAKE_QUANT_OFF": "07_qat",
    "NOT_CALIBRATED": "06_calibration",
}
"""Every code, with the notebook that teaches it, in the order in which a reader meets them."""

NEXT = {
    "float": "; it has not been prepared yet",
    "prepared": "; next comes convert",
    "prepared for QAT": "; next comes training, then convert",
}
"""What the title adds for a stage with no findings."""


@dataclass(frozen=True)
class Finding:
    """One thing that stands between a model and int8.

    Attributes:
        code: one of ``CODES``; stable, for programs.
        module: dotted name of the module concerned, as ``get_submodule`` takes it; "" is the model.
        explanation: what is wrong and what follows from it, in one or two sentences.
        fix: the remedy as Python code. ``model`` is the model given, ``self`` the module concerned.
        notebook: stem of the notebook that teaches it.
    """

    code: str
    module: str
    explanation: str
    fix: str
    notebook: str


def counted(count: int, noun: str) -> str:
    """``1 chain``, ``3 chains``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def finding(code: str, module: str, explanation: str, fix: str) -> Finding:
    """A ``Finding`` with the notebook that ``CODES`` names."""
    return Finding(code, module, explanation, fix, CODES[code])


class Findings(list[Finding]):
    """A list of ``Finding``, which prints as a table in a terminal and in a notebook.

    The table has one row for all findings that differ in the module only.

    Attributes:
        model: the class of the model.
        stage: "float", "prepared", "prepared for QAT" or "converted".
    """

    def __init__(self, findings: Iterable[Finding] = (), model: str = "", stage: str = "") -> None:
        unique = dict.fromkeys(findings)
        super().__init__(sorted(unique, key=lambda found: list(CODES).index(found.code)))
        self.model, self.stage = model, stage

    def to_frame(self) -> pandas.DataFrame:
        """One row a finding, in the order of the list; columns as the attributes of ``Finding``."""
        columns = [field.name for field in fields(Finding)]
        return pandas.DataFrame([asdict(found) for found in self], columns=columns)

    @property
    def title(self) -> str:
        """The first line of the table, such as ``Blaze, float: 15 findings``."""
        count = counted(len(self), "finding") if self else "no findings"
        return f"{self.model}, {self.stage}: {count}" + ("" if self else NEXT.get(self.stage, ""))

    def __repr__(self) -> str:
        return as_text(self.title, self)

    def _repr_html_(self) -> str:
        return as_html(self.title, self)
