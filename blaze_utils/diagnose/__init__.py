"""What stands between a model and a working int8 conversion: ``diagnose``.

For any eager ``nn.Module`` at any stage: float, with stubs, fused, prepared, calibrated, converted,
prepared for quantization-aware training. The modules build on each other in this order:

- table, finding: what is returned;
- anatomy: what kind of module is this?
- calls, recording, watching, running: one run of a copy, written down;
- failure, structure, conversion, remedies, operators, chains, calibration: the checks;
- diagnosis: puts it together.
"""

from .diagnosis import diagnose
from .finding import CODES, Finding, Findings

__all__ = ["CODES", "Finding", "Findings", "diagnose"]
