"""Compare the notebooks with their stored outputs under many settings; write what came of it.

    python tests/rerun.py [--settings NAME ...] [--pythons PATH ...] [NOTEBOOK ...]

Each setting and Python is a row of tests/README.md, which stays until it is run again; the times of
the first setting go into the lists of both READMEs. PATH is another environment's Python.
"""

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD, PAGE = ROOT / "build", ROOT / "tests" / "README.md"
STARTUP = BUILD / "ipython" / "profile_default" / "startup" / "engines.py"  # a kernel runs it first
ARM = """import torch
torch._C._supported_qengines = lambda: [0, 2]  # none and qnnpack, as on Arm
def setter(engine, real=torch._C._set_qengine):
    if engine not in (0, 2):
        raise RuntimeError(f"quantized engine {engine} is not supported")
    real(engine)
torch._C._set_qengine = setter
torch.backends.quantized.engine = "qnnpack"
"""
# The engine x86 asks cpuinfo, not FBGEMM, whose kernels to take: every Python runs this first.
OLDER = BUILD / "novnni" / "sitecustomize.py"
CPUINFO = r"""import ctypes, pathlib, re, sysconfig
torch = pathlib.Path(sysconfig.get_path("purelib"), "torch")
header = (torch / "include/cpuinfo.h").read_text()
header = re.sub(r"#if CPUINFO_ARCH_X86\n.*?#endif", "", header, flags=re.S)
body = re.search(r"struct cpuinfo_x86_isa {(.*?)\n};", header, re.S)[1]
fields = re.findall(r"bool (\w+);", body)
library = ctypes.CDLL(str(torch / "lib/libtorch.so"))
library.cpuinfo_initialize()
known = (ctypes.c_bool * len(fields)).in_dll(library, "cpuinfo_isa")
for place, field in enumerate(fields):
    known[place] &= "avx512" not in field and "vnni" not in field
"""
AVX2 = {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
AVX2 |= {"ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": str(OLDER.parent)}
SETTINGS = {  # name: variables, runs in a row
    "one thread": ({}, 5),
    "two threads": ({"OMP_NUM_THREADS": "2"}, 1),
    "no VNNI": (AVX2, 1),
    "qnnpack alone": ({"IPYTHONDIR": str(STARTUP.parents[2])}, 1),
}
VERSIONS = "import platform, torch; print(platform.python_version(), torch.__version__, sep=', ')"


def run(python: str, variables: dict[str, str], notebooks: list[str]) -> dict[str, list]:
    """Check notebooks once; for each its seconds, its cells, and how many of them failed."""
    report, found = BUILD / "rerun.xml", defaultdict(lambda: [0.0, 0, 0])
    report.unlink(missing_ok=True)
    options = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    options |= {"PYTEST_ADDOPTS": f"--junitxml={report}", **variables}
    command = [python, "-m", "maintainers.notebooks", "check", *notebooks]
    subprocess.run(command, cwd=ROOT, env=os.environ | options, check=False)
    for case in ElementTree.parse(report).iter("testcase"):
        row = found[re.search(r"\d\d_\w+", case.get("classname") + case.get("name"))[0]]
        bad = any(part.tag in ("failure", "error") for part in case)
        row[:] = row[0] + float(case.get("time")), row[1] + 1, row[2] + bad
    return found


def write_row(key: str, runs: list[dict[str, list]]) -> None:
    """Put the row of a setting and a Python, which it begins with, into the table."""
    bad = [(i, n, row[2]) for i, f in enumerate(runs, 1) for n, row in f.items() if row[2]]
    red = ", ".join(f"run {i}: {n[:2]} ({failed} cells)" for i, n, failed in bad)
    what = f"{len(runs[0])} notebooks, {sum(row[1] for row in runs[0].values())} cells"
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = re.findall(r"model name\s*: (.+)", info) or [platform.processor()]
    cells = [f"{what} × {len(runs)}", f"red in {red}" if red else "green"]
    cells += [f"{datetime.date.today()}", f"{names[0]}, {os.cpu_count()} cores"]
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if not line.startswith(key)]
    lines.insert(lines.index("<!-- rerun:end -->"), f"{key} {' | '.join(cells)} |")
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def write_times(found: dict[str, list]) -> None:
    """Put the time of each notebook into the last column of the READMEs' lists."""
    for page in (ROOT / "README.md", ROOT / "README.zh-CN.md"):
        text = page.read_text(encoding="utf-8")
        for name, (value, _, _) in found.items():
            time = f"{value / 60:.0f} min" if value > 90 else f"{max(10, round(value, -1)):.0f} s"
            time = time.replace(" ", "\u00a0")  # must not wrap
            text = re.sub(rf"(\| \[[^|]*{name}.*\| )[^|]+ \|\n", rf"\g<1>{time} |\n", text)
        page.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python tests/rerun.py")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--pythons", nargs="+", default=[sys.executable], metavar="PATH")
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    options = parser.parse_args()
    for file, text in {STARTUP: ARM, OLDER: CPUINFO}.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for python in options.pythons:
        asked = subprocess.check_output([python, "-c", VERSIONS], text=True).strip()
        for name in options.settings:
            variables, times = SETTINGS[name]
            runs = [run(python, variables, options.notebooks) for _ in range(times)]
            write_row(f"| {name} | {asked} |", runs)
            if name == "one thread":
                write_times(runs[0])
