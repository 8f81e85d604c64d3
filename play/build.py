"""Build the page that finds faces in the browser: one HTML file that needs nothing beside it.

    python play/build.py          writes play/index.html; takes npm and the packages of notebook 10

The page is ``src/page.html`` with its style and scripts put in, and these files, packed with gzip
and in base64: three ONNX models, exported from the shipped checkpoint; a table that tells the
network in plain JavaScript where its weights lie in the float model; ONNX Runtime's two files, from
npm, in the version that ``package-lock.json`` pins.
"""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig, prepare

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from blaze_utils import standalone  # noqa: E402
from blaze_utils.data import FaceFolder  # noqa: E402
from blaze_utils.detector import load_float  # noqa: E402
from blaze_utils.int8 import calibrate, export, quantizable_copy  # noqa: E402

PLAY = ROOT / "play"
PAGE = PLAY / "index.html"
CHECKPOINT = ROOT / "data" / "checkpoints" / "blaze_float.pth"
SCENE = ROOT / "data" / "val" / "00024.jpg"  # the one of notebook 04
SCENES = 16  # to calibrate with, as in notebook 04
MODELS = ("float.onnx", "int8.onnx", "unsigned.onnx")
RUNTIME = {
    "runtime.mjs": "ort.wasm.bundle.min.mjs",
    "runtime.wasm": "ort-wasm-simd-threaded.wasm",
}
PACKED = re.compile(r'<script type="application/gzip" id="([\w.]+)">([\w+/=]+)</script>\n')


def scenes() -> list[np.ndarray]:
    """The images to calibrate with, uint8 [H, W, 3] BGR."""
    folder = FaceFolder(ROOT / "data" / "calibration")
    return [sample.image for sample in islice(folder, SCENES)]


def export_models(folder: Path) -> dict[str, bytes]:
    """Export the shipped detector in float, and in int8 with signed and unsigned activations."""
    # Without VNNI, `export` gives the weights 7 bits, with which sums saturate nowhere: the browser
    # finds what Python finds, whatever the processor. So this machine says that it has none.
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    paths = {name: folder / name for name in MODELS}
    export.export_onnx(load_float(CHECKPOINT), paths["float.onnx"])
    for name, unsigned in (("int8.onnx", False), ("unsigned.onnx", True)):
        export.quantize_onnx(paths["float.onnx"], paths[name], scenes(), unsigned=unsigned)
    return {name: stripped(path) for name, path in paths.items()}


def stripped(path: Path) -> bytes:
    """An ONNX file without what the exporter notes for people: a fifth of the float one."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return model.SerializeToString()


def weight_table(model: bytes) -> dict:
    """Where the weights lie in the float model, and what calibration finds for every output.

    ``layers`` has each convolution under its PyTorch name: the ``shape`` of its weights and the
    offsets of its ``weight`` and ``bias`` in the file, in bytes; its ``output`` (scale and zero
    point); and the batch norm ``norm`` that the exporter has folded into it, as the ``gain`` and
    ``shift`` of each channel, with an ``output`` of its own. ``sums`` and ``input`` are further
    scales and zero points. They are those of the network that notebook 04 converts: batch norms
    not fused, the observers of qnnpack.
    """
    twin = quantizable_copy(load_float(CHECKPOINT))
    norms = {name: m for name, m in twin.named_modules() if isinstance(m, nn.BatchNorm2d)}
    twin.qconfig = get_default_qconfig("qnnpack")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.ao.quantization is deprecated")
        prepared = prepare(twin)
    calibrate(prepared, scenes())
    modules = dict(prepared.named_modules())

    def found(name: str) -> list[float]:
        scale, zero_point = modules[name].activation_post_process.calculate_qparams()
        return [scale.item(), zero_point.item()]

    tensors = {tensor.name: tensor for tensor in onnx.load_from_string(model).graph.initializer}
    layers = {}
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            layers[name] = {"shape": list(module.weight.shape), "output": found(name)}
            layers[name] |= {
                "weight": offset(model, tensors[f"{name}.weight"]),
                "bias": offset(
                    model, tensors.get(f"{name}.bias") or tensors[f"{name}.weight_bias"]
                ),
            }
            stem, _, number = name.rpartition(".")
            behind = f"{stem}.{int(number) + 1}"
            if behind in norms:
                layers[name]["norm"] = affine(norms[behind]) | {"output": found(behind)}
    sums = {name.split(".")[0]: found(name) for name in modules if name.endswith("skip_add_relu")}
    return {"input": found("quant"), "sums": sums, "layers": layers}


def offset(model: bytes, tensor: onnx.TensorProto) -> int:
    """Where the numbers of a tensor begin in the bytes of a model."""
    if model.count(tensor.raw_data) != 1 or tensor.data_type != onnx.TensorProto.FLOAT:
        raise ValueError(f"{tensor.name}: not to be found as float32 in one place of the model")
    return model.index(tensor.raw_data)


def affine(norm: nn.BatchNorm2d) -> dict[str, list[float]]:
    """A batch norm in evaluation mode as ``gain * x + shift``, by channel."""
    with torch.no_grad():
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * gain
    return {"gain": gain.tolist(), "shift": shift.tolist()}


def fetch_runtime() -> dict[str, bytes]:
    """ONNX Runtime's files for the browser, by npm, into ``build/play``."""
    npm, folder = shutil.which("npm"), ROOT / "build" / "play"
    if npm is None:
        sys.exit("==> play: npm is not here (it comes with Node.js). play/index.html is built.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PLAY / name, folder)
    subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True
    )
    files = folder / "node_modules" / "onnxruntime-web" / "dist"
    packed = {name: (files / file).read_bytes() for name, file in RUNTIME.items()}
    # The notices of what is built into it are not in the npm package, but in Python's.
    notices = Path(onnxruntime.__file__).with_name("ThirdPartyNotices.txt")
    return {**packed, "notices.txt": notices.read_bytes()}


def joined(name: str, seen: set[str] | None = None) -> str:
    """A script with the modules that it imports before it, each once, as one script.

    It takes ``import { names } from "./module.js"`` and ``export`` before a declaration; a name
    that two modules declare is an error of the browser, and so of the tests.
    """
    seen = set() if seen is None else seen
    seen.add(name)
    text = (PLAY / "src" / name).read_text(encoding="utf-8")
    pattern = r'^import \{[^}]+\} from "\./([\w.]+)";\n'
    before = [joined(other, seen) for other in re.findall(pattern, text, re.M) if other not in seen]
    return "".join(before) + re.sub(
        "^export ", "", re.sub(pattern, "", text, flags=re.M), flags=re.M
    )


def marks(faces: list[dict]) -> str:
    """Boxes and landmarks as SVG."""
    shapes = []
    for face in faces:
        x1, y1, x2, y2 = face["box"]
        size = f'width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
        shapes.append(f'<rect x="{x1}" y="{y1}" {size}/>')
        radius = max(0.8, (x2 - x1) / 30)
        shapes += [f'<circle cx="{x}" cy="{y}" r="{radius:.1f}"/>' for x, y in face["landmarks"]]
    return "".join(shapes)


def found_faces(models: dict[str, bytes]) -> dict[str, list[dict]]:
    """What ``standalone.py`` finds in the drawn scene, in float and in int8: the first picture."""
    image = cv2.imread(str(SCENE))
    with tempfile.TemporaryDirectory() as folder:
        faces = {}
        for name in ("float", "int8"):
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(models[path.name])
            faces[name] = standalone.find(standalone.load(path), image)
    return faces


def assemble(packed: dict[str, bytes]) -> str:
    """The page, from the sources and the files to pack into it, which ``unpack`` takes out."""
    picture = cv2.imread(str(SCENE))
    values = {
        "style.css": (PLAY / "src" / "style.css").read_text(encoding="utf-8"),
        "worker.js": joined("worker.js"),
        "page.js": joined("page.js"),
        "licences": (PLAY / "LICENCES.txt").read_text(encoding="utf-8"),
        "picture": base64.b64encode(SCENE.read_bytes()).decode(),
        "size": f"{picture.shape[1]} {picture.shape[0]}",
        "scenes": str(SCENES),
    }
    for name, faces in json.loads(packed["faces.json"]).items():
        values |= {f"{name}.svg": marks(faces), f"{name}.count": str(len(faces))}
    values["packed"] = "".join(
        f'<script type="application/gzip" id="{name}">'
        f"{base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()}</script>\n"
        for name, content in packed.items()
    )
    page = (PLAY / "src" / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([\w.]+)\}\}", lambda match: values[match[1]], page)


def unpack(page: str) -> dict[str, bytes]:
    """The files that are packed into a page."""
    return {name: gzip.decompress(base64.b64decode(text)) for name, text in PACKED.findall(page)}


def main() -> None:
    """Export, fetch, put together, write."""
    runtime = fetch_runtime()
    with tempfile.TemporaryDirectory() as folder:
        models = export_models(Path(folder))
    tables = {"table.json": weight_table(models["float.onnx"]), "faces.json": found_faces(models)}
    packed = {name: json.dumps(table).encode() for name, table in tables.items()}
    page = assemble({**models, **packed, **runtime})
    PAGE.write_text(page, encoding="utf-8", newline="\n")
    print(f"==> {PAGE.relative_to(ROOT)}: {PAGE.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
