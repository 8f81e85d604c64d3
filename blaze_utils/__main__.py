"""The command line: `python -m blaze_utils train / evaluate / detect / quantize / diagnose / draw`.

Each command (``commands/``) does with a reader's own files what the notebooks do. Results go to
stdout, progress and notes to stderr. The exit status is 0 if all went well, 1 after an error that
is said in one line, 2 for wrong options, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from types import ModuleType

import cv2

from blaze_utils.commands import common, detect, diagnose, draw, evaluate, quantize, train
from blaze_utils.commands.common import CHECKPOINT

__all__ = ["CHECKPOINT", "main", "parser"]

COMMANDS = {
    "train": train, "evaluate": evaluate, "detect": detect, "quantize": quantize,
    "diagnose": diagnose, "draw": draw,
}

# What a user can mend or must be told: wrong files and values (CheckpointError, DatasetError and
# their like are ValueErrors), a loss that is not finite, and PyTorch's RuntimeError for a GPU that
# is full or a process that has died. Anything else is a mistake of ours and shows its traceback.
EXPECTED = (OSError, ValueError, ArithmeticError, RuntimeError, MemoryError)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="python -m blaze_utils",
        description="What the notebooks do, for your own files.",
        epilog="python -m blaze_utils COMMAND --help shows the options of a command and an example",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        _add_command(commands, name, module)
    return top


def _add_command(commands: argparse._SubParsersAction, name: str, module: ModuleType) -> None:
    sub = commands.add_parser(
        name,
        help=module.HELP,
        description=module.HELP[0].upper() + module.HELP[1:] + ".",
        epilog=f"example:\n  python -m blaze_utils {module.EXAMPLE}\n{getattr(module, 'MORE', '')}",
        formatter_class=_Formatter,
    )
    module.add_options(sub)
    common.add_json(sub)
    sub.set_defaults(run=module.run)


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Defaults are named where there are any; the lines of the example stay as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def _quieten() -> None:
    """Warnings in one line each; nothing from OpenCV and FFmpeg, whose failures we name."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    warnings.showwarning = lambda message, *_, **__: common.note(f"warning: {message}")
    # Each is about how PyTorch works inside.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
    warnings.filterwarnings("ignore", "Please use quant_min", UserWarning)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    with warnings.catch_warnings():
        _quieten()
        try:
            status = options.run(options)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read our output wants no more, as `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            common.note("interrupted")
            return 130
        except EXPECTED as error:
            common.note(f"error: {common.one_line(error)}")
            return getattr(error, "status", 1)
    return status


if __name__ == "__main__":
    sys.exit(main())
