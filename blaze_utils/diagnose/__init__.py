"""What stands between a model of yours and int8.

``diagnose`` takes any eager model and an example of its inputs, takes copies of it to int8, and
says where that stops or goes wrong, why, and what to write instead. ``checks`` is one file to copy
into a project of your own: one line for each mistake that raises no error. Begin with
``diagnose(model, x)``. Quantizing itself is the room ``int8``.
"""

from . import checks
from .findings import CODES, Finding, Findings, diagnose
from .trials import InFloat

__all__ = ["CODES", "Finding", "Findings", "InFloat", "checks", "diagnose"]
