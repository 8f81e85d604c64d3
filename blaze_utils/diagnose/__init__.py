"""What stands between a model of yours and int8, and whether it is worth it.

``diagnose`` takes any eager model and an example of its inputs, takes copies of it to int8, and
says where that stops or goes wrong, why, and what to write instead. ``assess`` tries the ways to
int8 side by side (eager, PT2E, dynamic, ONNX Runtime) and gives a verdict and a file. ``checks`` is
one file to copy into a project of your own: one line for each mistake that raises no error. Begin
with ``diagnose(model, x)``. What the ways are made of is the room ``int8``, on which only
``assess`` relies, when it runs.
"""

from . import checks
from .assess import Assessment, assess
from .findings import CODES, Finding, Findings, diagnose
from .trials import InFloat

__all__ = [
    "CODES",
    "Assessment",
    "Finding",
    "Findings",
    "InFloat",
    "assess",
    "checks",
    "diagnose",
]
