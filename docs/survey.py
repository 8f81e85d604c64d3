"""What int8 in today's PyTorch does to public networks: ``assess``, one network after another.

``python docs/survey.py`` appends a row a network to ``survey.csv`` and writes ``survey.md``; the
last row of a network counts. With ``--quick`` nothing is compiled, so that PT2E has decibels and no
time; without it, networks that lack PT2E's time or ONNX Runtime are run (again). Each network runs
in a process of its own with a time limit. It needs timm (``pip install timm``), which nothing else
here does.
"""

import argparse
import contextlib
import csv
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
TABLE, PAGE = HERE / "survey.csv", HERE / "survey.md"
PHOTOGRAPHS = HERE.parent / "data" / "calibration"

# Library, names. ":" names a part of the model that takes one image; "@" the side of the image.
LISTS = {
    "torchvision": (
        "resnet18 mobilenet_v2 squeezenet1_1 shufflenet_v2_x0_5 mnasnet0_5 alexnet "
        "mobilenet_v3_small regnet_y_400mf efficientnet_b0 vgg11_bn densenet121 googlenet "
        "resnext50_32x4d vit_b_32@224 swin_t convnext_tiny inception_v3 resnet50 maxvit_t@224 "
        "vit_b_16@224 regnet_x_400mf mobilenet_v3_large shufflenet_v2_x1_0 mnasnet1_0 "
        "squeezenet1_0 vgg11 resnet34 swin_v2_t efficientnet_v2_s wide_resnet50_2"
    ),
    "torchvision.quantization": "resnet18 mobilenet_v2 mobilenet_v3_large googlenet",
    "torchvision.segmentation": (
        "lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large fcn_resnet50"
    ),
    "torchvision.detection": (
        "ssdlite320_mobilenet_v3_large:backbone fasterrcnn_mobilenet_v3_large_fpn:backbone "
        "ssd300_vgg16:backbone@300 retinanet_resnet50_fpn:backbone"
    ),
    "timm": (
        "resnet10t mobilenetv4_conv_small ghostnet_100 lcnet_050 efficientnet_lite0 repvgg_a0 "
        "mobileone_s0 deit_tiny_patch16_224@224 mobilevitv2_050 edgenext_xx_small levit_128s@224 "
        "poolformer_s12 fastvit_t8 convnext_atto efficientvit_b0 dla34 mixnet_s rexnet_100 "
        "resmlp_12_224@224"
    ),
}
PLACES = [
    (place / len(names.split()), f"{library}.{name}")
    for library, names in LISTS.items()
    for place, name in enumerate(names.split())
]
NETWORKS = [network for _, network in sorted(PLACES)]  # of each list some first
SIDE, IMAGES = 128, 8
FLOATS = ["float, as it is", "float, traced and frozen", "float, ONNX Runtime", "float, compiled"]
INT8 = {"eager": "int8, eager", "dynamic": "int8, dynamic", "onnx": "int8, ONNX Runtime"}
INT8["pt2e"] = "int8, PT2E compiled"
SHOWN = {"pt2e": "PT2E", "onnx": "ONNX", "dynamic": "dynamic", "eager": "eager"}
GOOD = 20
COLUMNS = ["network", "side", "parameters", "agree"]
COLUMNS += [f"{way}_{fact}" for way in INT8 for fact in ("dB", "time", "why_not")]
COLUMNS += ["megabytes", "int8_megabytes", "float_ms", "why_not", "seconds", "load"]
COLUMNS += ["machine"]


def build(network: str):
    """The network with random weights, without asking any server."""
    import timm
    import torch
    from torchvision import models

    torch.manual_seed(0)
    library, _, name = network.partition("@")[0].rpartition(".")
    name, _, part = name.partition(":")
    if library == "timm":
        model = timm.create_model(name, pretrained=False)
    elif library == "torchvision.quantization":
        model = getattr(models.quantization, name)(weights=None, quantize=False)
    else:
        group = {"torchvision": models}.get(library) or getattr(models, library.split(".")[1])
        options = {} if library == "torchvision" else {"weights_backbone": None}
        model = getattr(group, name)(weights=None, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.02)  # heads that begin with zeros give 0
    return model.eval().get_submodule(part)


def inputs(side: int) -> list:
    """Images of the calibration set, cut to a square, as ImageNet's networks take them."""
    import torch
    from torchvision.io import decode_image
    from torchvision.transforms import v2

    change = v2.Compose([
        v2.Resize(side), v2.CenterCrop(side), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    paths = sorted(PHOTOGRAPHS.glob("*.jpg"))[:IMAGES]
    return [change(decode_image(str(path), mode="RGB"))[None] for path in paths]


def graph(bench) -> tuple:
    """PT2E as a way of ``assess``, not compiled: it has the decibels of int8, not its time."""
    made = bench.pt2e_graph()
    return lambda: made, Path(__file__)  # some file: there is none of its own


def examine(network: str, path: str, quick: bool) -> None:
    """Assess one network, and write its row as a CSV file of one line."""
    import torch

    from blaze_utils.diagnose import assess
    from blaze_utils.diagnose.assess import WAYS

    torch.set_num_threads(1)
    if quick:
        WAYS[INT8["pt2e"]] = graph
    ways = [*(FLOATS[:-1] if quick else FLOATS), *INT8.values()]
    start, side = time.time(), int(network.partition("@")[2] or SIDE)
    row = {"network": network, "side": side, "load": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as folder:
        model = build(network)
        row["parameters"] = sum(p.numel() for p in model.parameters())
        found = assess(model, inputs(side), folder, min_run_time=0.4, ways=ways)
    ways = found.ways  # also a row for each that fails
    best = ways.ratio.reindex(FLOATS).min()
    for short, way in INT8.items():
        row[f"{short}_dB"] = ways.decibels[way]
        timed = not quick or short != "pt2e"
        row[f"{short}_time"] = ways.ratio[way] / best if timed else float("nan")
        row[f"{short}_why_not"] = ways.why_not[way]
    row["agree"] = ways.same_class[INT8["pt2e"]]
    row["megabytes"] = ways.megabytes[FLOATS[1]]
    row["int8_megabytes"] = float("nan") if quick else ways.megabytes[INT8["pt2e"]]
    row["float_ms"] = ways.cpu_ms.reindex(FLOATS).min()
    row["seconds"] = round(time.time() - start)
    pd.DataFrame([row]).to_csv(path, index=False)


def guarded(network: str, path: str, log: str, quick: bool) -> None:
    """``examine`` in a process of its own: whatever it raises is its row."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    try:
        examine(network, path, quick)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:150]
        row = {"network": network, "why_not": f"{type(error).__name__}: {said}"}
        pd.DataFrame([row]).to_csv(path, index=False)
        raise


def row_of(network: str, limit: float, log: str, quick: bool) -> dict:
    """The row of a network; one with the reason if its process ends without."""
    context = multiprocessing.get_context("forkserver")  # which has imported what all need
    context.set_forkserver_preload(
        ["torchvision", "timm", "blaze_utils.int8.pt2e", "blaze_utils.diagnose"]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.csv"
        process = context.Process(target=guarded, args=(network, str(path), log, quick))
        process.start()
        process.join(limit)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        with contextlib.suppress(FileNotFoundError):
            return pd.read_csv(path).iloc[0].to_dict()
    reason = f"took more than {limit:.0f} s" if late else f"ended with {process.exitcode}"
    return {"network": network, "why_not": reason}


def machine() -> str:
    """Processor and versions, for the page."""
    import torch

    from blaze_utils.int8.eager import has_vnni

    name = platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    name += f" with{'' if has_vnni() else 'out'} VNNI, {os.cpu_count()} cores"
    return f"{name}, torch {torch.__version__}"


def rows() -> pd.DataFrame:
    """The last row of each network; one that ran out of time does not replace one that did not."""
    table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=COLUMNS)
    best_last = table.why_not.isna().sort_values(kind="stable").index
    return table.loc[best_last].drop_duplicates("network", keep="last").sort_index()


def run(until: str, limit: float, log: str, quick: bool) -> None:
    """Run what is not done yet, until a time of day."""
    table = rows()
    tried = with_onnx(table) & (table.pt2e_time.notna() | table.pt2e_why_not.notna())
    done = set(table.network if quick else table.network[tried])
    for network in sorted(NETWORKS, key=set(table.network).__contains__):  # new ones first
        if network in done or time.strftime("%H:%M") >= until:
            continue
        row = row_of(network, limit, log, quick) | {"machine": machine()}
        with TABLE.open("a", newline="") as file:
            writer = csv.DictWriter(
                file, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n"
            )
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({key: "" if value != value else value for key, value in row.items()})


TEXT = """# What int8 does to public networks

`assess` ([blaze_utils/diagnose](../blaze_utils/diagnose/assess.py)) on networks of torchvision and
timm, one after another, by [survey.py](survey.py); the rows are in [survey.csv](survey.csv).
**{done} of {all} networks were run**: {machine}, one thread, on a core of its own, with other
programs on the other core. Times are CPU times, in turns with the float arms: read them to one
digit.

**The weights are random.** Batch norms have their statistics from two passes over the {images}
images in training mode, since activations die otherwise. So decibels (SQNR of the worst output
against float, on the images of the calibration) say what rounding does to a network of this shape,
not what it costs a trained one. Agreement of the largest score means little here, and is left out.
The images are the first {images} of this project's calibration set, cut to a square of {side}
pixels, or more where the network asks for it.

{quick}| | |
| --- | --- |
{summary}

{whoever}

What `diagnose` found where eager mode was not tried: {eager}.

- *float ms*: of the fastest of four float arms (as it is, traced and frozen, compiled, in ONNX
  Runtime); *time*: of int8 over that.
- *PT2E*: exported, weights per channel, compiled ahead of time. *ONNX*: ONNX Runtime's own
  quantization. *dynamic*: linear layers only. *eager*: as the network is, fused as `diagnose` says.
  Empty: not possible.
- *size*: of the PT2E file over that of the traced float one.

{tables}

Not run: {rest}.
"""

QUICK = """Of {count} networks PT2E was converted and compared, but not compiled, for want of time
(`--quick`): they have no time and no size. `python docs/survey.py` goes on with them. {few} were
run without ONNX Runtime: a time with a star is over the best of fewer float arms, which flatters
int8. The summary leaves those out.

"""

WHOEVER = """Little is left of some networks, whoever rounds: of {few} that have less than {good}
dB by PT2E, {also} have less by ONNX Runtime's own quantization as well."""


def figure(value: float, digits: int = 0, what: str = "") -> str:
    """A number with so many digits, or nothing."""
    return "" if value != value else f"{value:.{digits}f}{what}"


def with_onnx(table: pd.DataFrame) -> pd.Series:
    """Whether ONNX Runtime was tried, for each row."""
    return table.onnx_dB.notna() | table.onnx_why_not.notna()


def line(row: pd.Series) -> str:
    """A network's row of the page."""
    star = "" if pd.notna(row.onnx_dB) or pd.notna(row.onnx_why_not) else "*"
    why = row.why_not if row.why_not == row.why_not else row.pt2e_why_not
    cells = [row.network.split(".")[-1].partition("@")[0], figure(row.side)]
    cells += [figure(row.parameters / 1e6, 1), figure(row.float_ms, 1)]
    for way in SHOWN:
        cells += [figure(row[f"{way}_dB"]), figure(row[f"{way}_time"], 2, star)]
    cells += [figure(row.int8_megabytes / row.megabytes, 2), "" if why != why else str(why)]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def page(table: pd.DataFrame) -> str:
    """The page, from the rows."""
    ways = " | ".join(f"{name} dB | time" for name in SHOWN.values())
    head = f"| network | side | M weights | float ms | {ways} | size | why not PT2E |\n"
    head += "|" + " --- |" * (6 + 2 * len(SHOWN))
    library = table.network.str.rpartition(".")[0].str.removesuffix(":backbone")
    groups = [
        f"## {name}\n\n{head}\n" + "\n".join(map(line, (row for _, row in rows.iterrows())))
        for name, rows in table.groupby(library, sort=False)
    ]
    summary, worked = [], table.pt2e_dB.notna()
    classes = table[library == "torchvision"]
    summary.append(("networks with a PT2E row", f"{worked.sum()} of {len(table)}"))
    measured = f"{classes.pt2e_dB.notna().sum()} of {len(classes)}"
    summary.append(("torchvision's classification among them", measured))
    fair = with_onnx(table)
    for way in SHOWN:
        found, times = table[f"{way}_dB"].dropna(), table[f"{way}_time"][fair].dropna()
        said = f"{len(found)} networks: median {found.median():.0f} dB, {(found >= GOOD).sum()} "
        said += f"with {GOOD} dB or more; time of {len(times)}: {times.min():.2f} to "
        said += f"{times.max():.2f}, median {times.median():.2f}"
        summary.append((SHOWN[way], said))
    quick = (worked & table.pt2e_time.isna()).sum()
    few = table[(table.pt2e_dB < GOOD) & table.onnx_dB.notna()]
    codes = table.eager_why_not.dropna().str.extract(r"findings?: (.*)")[0]
    counts = codes.str.split(", ").explode().value_counts()
    return TEXT.format(
        done=len(table),
        all=len(NETWORKS),
        machine=" and ".join(table.machine.unique()),
        images=IMAGES,
        side=SIDE,
        quick=QUICK.format(count=quick, few=(~with_onnx(table)).sum()) if quick else "",
        whoever=WHOEVER.format(few=len(few), also=(few.onnx_dB < GOOD).sum(), good=GOOD),
        summary="\n".join(f"| {name} | {value} |" for name, value in summary),
        eager=", ".join(f"{code} ({count})" for code, count in counts.items()),
        tables="\n\n".join(groups),
        rest=", ".join(name for name in NETWORKS if name not in set(table.network)) or "none",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", default="24", help="time of day after which none is begun")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one network (600)")
    parser.add_argument("--log", default=os.devnull, help="file for what the networks print")
    parser.add_argument("--quick", action="store_true", help="compile nothing")
    options = parser.parse_args()
    run(options.until, options.limit, options.log, options.quick)
    PAGE.write_text(page(rows()), encoding="utf-8")
