"""The command line, ``python -m blaze_utils COMMAND``: the series' tools for your own files.

Results go to stdout, notes to stderr. The exit status is 0 if all went well; 1 after an error, if a
file was not read, or if ``diagnose`` has findings; 2 for wrong options.
"""

import argparse
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torchvision.utils import draw_bounding_boxes, draw_keypoints
from tqdm import tqdm

from blaze_utils import data, detector, int8, measure, plots
from blaze_utils.diagnose import assess, diagnose

DATA = Path(__file__).resolve().parents[1] / "data"
CHECKPOINT = DATA / "checkpoints" / "blaze_float.pth"
SUFFIXES = {"eager": ".safetensors", "pt2": ".pt2", "onnx": ".onnx", "pte": ".pte"}


def note(*messages: object) -> None:
    """Print one line on stderr, above the progress bar if there is one."""
    words = ["blaze_utils:"]
    for message in messages:
        if isinstance(message, OSError) and message.filename is not None and message.strerror:
            message = f"{message.filename}: {message.strerror}"
        words += str(message).split() or [type(message).__name__]
    tqdm.write(" ".join(words), file=sys.stderr)


def exit_status(not_read: list[object]) -> int:
    """Name what was not read; the exit status that follows from it."""
    for reason in not_read:
        note("not read:", reason)
    return 1 if not_read else 0


def skipped(folder: data.PhotoFolder) -> list[object]:
    """A line for each file of a folder that is no photograph."""
    return [f"{folder.root / name}: {reason}" for name, reason in folder.skipped.items()]


def holds_int8(path: Path) -> bool:
    """Whether ``save_int8`` wrote a file; its first bytes tell, not its name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(256)
    # The layout of safetensors: the header's length in 8 bytes, then the header, our notes first.
    return start[8:9] == b"{" and b"blaze_utils" in start


def load_detector(path: Path) -> nn.Module:
    """Load a float checkpoint or an int8 file; CheckpointError if it is neither."""
    return int8.load_int8(path) if holds_int8(path) else detector.load_float(path)


# detect


def run_detect(options: argparse.Namespace) -> int:
    """Print a line a face, and draw the faces into copies of the photographs."""
    model = load_detector(options.checkpoint)
    colour = plots.INT8 if holds_int8(options.checkpoint) else plots.FLOAT
    files, not_read = photographs(options.paths)
    output: Path = options.output
    if any(path.resolve().is_relative_to(output.resolve()) for _, path in files):
        raise ValueError(f"{output}: holds photographs to read; name another folder for the copies")
    print(" score      x1      y1      x2      y2  image", flush=True)
    written: set[Path] = set()
    for name, path in tqdm(files, "detecting", unit="image"):
        try:
            image = data.read_image(path)
        except (OSError, ValueError) as error:
            not_read.append(error)
            continue
        found = detector.detect(model, image, options.long_side or None, options.score_threshold)
        for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
            tqdm.write(f"{score:6.3f}{''.join(f'{side:8.1f}' for side in box)}  {name}")
        if not len(found):
            tqdm.write(f"{'-':>6}{'':32}  {name}")
        copy = output / f"{name}.png"
        while copy in written:  # after an input of the same name
            copy = copy.with_name(f"_{copy.name}")
        write_picture(copy, draw_faces(image, found, colour))
        written.add(copy)
    note(f"{len(written)} pictures in {output}")
    return exit_status(not_read)


def photographs(paths: list[Path]) -> tuple[list[tuple[str, Path]], list[object]]:
    """Name and path of each photograph, those in folders too; and what is none, with the reason."""
    found: list[tuple[str, Path]] = []
    not_read: list[object] = []
    for path in paths:
        if not path.is_dir():
            found.append((path.name, path))
            continue
        try:
            folder = data.PhotoFolder(path)
        except (OSError, ValueError) as error:
            not_read.append(error)
        else:
            found += [(name, path / name) for name in folder.names]
            not_read += skipped(folder)
    return found, not_read


def draw_faces(image: np.ndarray, found: detector.Detections, colour: str) -> np.ndarray:
    """A copy of the image, uint8 [H, W, 3] BGR, with boxes and landmarks drawn in."""
    picture = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    width = max(1, round(max(image.shape[:2]) / 400))
    if len(found):  # torchvision warns where there is nothing to draw
        picture = draw_bounding_boxes(picture, found.boxes, colors=colour, width=width)
        for place, paint in enumerate(plots.LANDMARK_COLOURS):
            points = found.landmarks[:, place : place + 1]
            picture = draw_keypoints(picture, points, colors=paint, radius=width + 1)
    return picture.permute(1, 2, 0).numpy()[..., ::-1]


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


# quantize


def run_quantize(options: argparse.Namespace) -> int:
    """Quantize, store, and compare with float on the calibration images."""
    if holds_int8(options.checkpoint):
        raise ValueError(f"{options.checkpoint}: is int8 already, expected a float checkpoint")
    output = options.output or Path("build", "int8").with_suffix(SUFFIXES[options.to])
    if output.is_dir():
        raise ValueError(f"{output}: is a folder, expected the name of a file to write")
    if options.to != "eager" and output.suffix != SUFFIXES[options.to]:
        raise ValueError(f"{output}: expected a name that ends in {SUFFIXES[options.to]}")
    model, images = detector.load_float(options.checkpoint), data.PhotoFolder(options.folder)
    status = exit_status([*skipped(images), *choose(images, options.images)])
    output.parent.mkdir(parents=True, exist_ok=True)
    converted = write_int8(model, (sample.image for sample in images), output, options)
    made = options.to if options.to in ("pt2", "pte") else torch.backends.quantized.engine
    print(f"{output}: for {made}, {len(images)} images seen")
    before, after = (path.stat().st_size for path in (options.checkpoint, output))
    print(f"bytes                    {before:,} -> {after:,} ({after / before:.2f})")
    print_comparison(model, converted, images)
    return status


def write_int8(
    model: nn.Module, images: Iterator[np.ndarray], path: Path, options: argparse.Namespace
) -> nn.Module:
    """Quantize and write the file that ``--to`` asks for; returns what runs it."""
    from blaze_utils.int8 import export, pt2e, runtimes

    needs = {"onnx": ("onnx", "onnxruntime"), "pte": ("executorch",)}.get(options.to, ())
    if reason := export.missing(*needs) if needs else None:
        raise ImportError(reason)
    part = path.with_name(f"part-{path.name}")  # a file is whole, or not there
    if options.to == "pt2":
        pt2e.package(pt2e.quantize_pt2e(model, images), part)
    elif options.to == "pte":
        export.export_pte(model, part, images)
    else:
        converted = int8.quantize_static(model, images, options.engine)
        (export.export_int8_onnx if options.to == "onnx" else int8.save_int8)(converted, part)
    part.replace(path)
    run = {"pt2": runtimes.packaged, "pte": runtimes.executorch, "onnx": runtimes.onnx_runtime}
    return converted if options.to == "eager" else run[options.to](path)


def choose(folder: data.PhotoFolder, count: int) -> list[object]:
    """Leave ``count`` photographs in a folder at most; returns why others cannot be read."""
    readable, not_read = [], []
    chosen = np.linspace(0, len(folder) - 1, min(count, len(folder))).round().astype(int)
    for place in tqdm(chosen.tolist(), "reading", unit="image"):
        try:
            readable.append(folder[place].name)
        except (OSError, ValueError) as error:
            not_read.append(error)
    folder.names = readable
    return [*not_read]


def print_comparison(model: nn.Module, converted: nn.Module, images: data.PhotoFolder) -> None:
    """Print what int8 changes: outputs, detections, and the time on one thread."""
    inputs = [detector.preprocess(images[place].image)[0] for place in range(min(len(images), 8))]
    fused = detector.QuantizableBlaze().eval()  # as much effort put into float as into int8
    fused.load_state_dict(model.state_dict())
    fused.fuse_model()
    arms = {"float": fused.to(memory_format=torch.channels_last), "int8": converted}
    times = measure.compare(arms, inputs[0], rounds=4, min_run_time=0.4)["median_ms"]
    ratios = measure.head_sqnr(model, converted, inputs)
    agreement = measure.agreement_ap(
        detector.predict(model, images), detector.predict(converted, images)
    )
    print(f"ms an image, one thread  {times['float']:.1f} (fused float) -> {times['int8']:.1f}")
    print(f"SQNR of the outputs      {', '.join(f'{k} {v:.1f} dB' for k, v in ratios.items())}")
    print(f"agreement AP with float  {agreement:.4f}")


# evaluate


def run_evaluate(options: argparse.Namespace) -> int:
    """Print the average precision on labelled images."""
    model = load_detector(options.checkpoint)
    not_read: list[object] = []
    images: data.FaceFolder | data.PhotoFolder
    if options.ground_truth:
        images = data.PhotoFolder(options.folder)
        truth = measure.load_widerface_ground_truth(options.ground_truth)
        missing = sorted(set(truth) - set(images.names))
        not_read += [f"{options.folder / name}: its faces count as missed" for name in missing]
        not_read += skipped(images)
    else:
        images = data.FaceFolder(options.folder)
        truth = measure.ground_truth(images)
    predictions = detector.predict(model, images, options.long_side or None)
    faces = sum(len(image["boxes"]) for image in truth.values())
    print(f"{len(predictions)} images read, {len(truth)} with ground truth, {faces} faces")
    for setting, value in measure.widerface_ap(predictions, truth).items():
        print(f"AP {setting:6} {value:.4f}")
    return exit_status(not_read)


# diagnose


def run_diagnose(options: argparse.Namespace) -> int:
    """Print what stands between a model of the reader's and int8."""
    model = readers_model(options.model)
    inputs = [torch.rand(shape) for shape in options.inputs or [sizes("1x3x224x224")]]
    findings = diagnose(model, tuple(inputs))
    print(findings)
    return 1 if findings else 0


def readers_model(name: str) -> nn.Module:
    """A model, or what its class or function gives without arguments, by ``MODULE:NAME``."""
    sys.path.insert(0, str(Path.cwd()))  # so that the reader's own modules are found
    torch.manual_seed(0)
    try:
        model = pkgutil.resolve_name(name)
    except AttributeError as error:
        raise ValueError(f"{name}: {error}") from error
    return model if isinstance(model, nn.Module) else model()


# assess


def run_assess(options: argparse.Namespace) -> int:
    """Try the ways to int8 on a model of the reader's, and print the verdict."""
    model = readers_model(options.model)
    if options.images is None:
        note("no --images: random inputs, so decibels and agreement say little about real ones")
        inputs = [torch.rand(options.input) for _ in range(16)]
    else:
        size = options.input[:1:-1]  # width, height
        photos = data.PhotoFolder(options.images)
        read = (photos[index].image for index in range(min(len(photos), 64)))
        small = [cv2.resize(image, size)[..., ::-1] / np.float32(255) for image in read]
        inputs = [torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() for image in small]
    found = assess(model, inputs, options.output)
    print(found.to_json() if options.json else found)
    return 0


# options


def sizes(text: str) -> tuple[int, ...]:
    """The shape of a tensor, such as 1x3x224x224; ValueError for anything else."""
    return tuple(int(size) for size in text.split("x"))


def parser() -> argparse.ArgumentParser:
    """The commands and their options; defaults are named in brackets."""
    top = argparse.ArgumentParser(prog="python -m blaze_utils", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], int], purpose: str) -> Callable[..., object]:
        sub = commands.add_parser(run.__name__[4:], help=purpose, description=purpose)
        sub.set_defaults(run=run)
        return sub.add_argument

    add = command(run_detect, "find faces in photographs and in folders of them")
    add("paths", type=Path, nargs="+", metavar="PATH", help="photograph or folder")
    add("--output", type=Path, default="build/found", help="folder for copies (build/found)")
    add("--score-threshold", type=float, default=0.5, help="least score of a face (0.5)")
    add_detector(add)

    add = command(run_quantize, "make an int8 file, calibrated on your photographs")
    add("folder", type=Path, nargs="?", default=DATA / "calibration", help="photographs (scenes)")
    add("--checkpoint", type=Path, default=CHECKPOINT, help="a float one (ours)")
    add("--images", type=int, default=32, help="how many photographs at most (32)")
    add("--to", choices=SUFFIXES, default="eager", help="what shall run the file (eager: PyTorch)")
    add("--engine", help="x86, fbgemm, onednn, qnnpack (what suits this processor)")
    add("--output", type=Path, help="(build/int8 and what --to calls for)")

    add = command(run_evaluate, "average precision by the protocol of WIDER FACE")
    add("folder", type=Path, nargs="?", default=DATA / "val", help="with label.txt (our scenes)")
    add("--ground-truth", type=Path, help="folder of WIDER FACE's .mat files, without label.txt")
    add_detector(add)

    add = command(run_diagnose, "say what stands between a model of yours and int8")
    add("model", metavar="MODULE:NAME", help="a model or its class: torchvision.models:resnet18")
    add(
        "--input", dest="inputs", type=sizes, action="append", help="(1x3x224x224), repeat for more"
    )

    add = command(run_assess, "try the ways to int8 on a model of yours, and give a verdict")
    add("model", metavar="MODULE:NAME", help="a model or its class: torchvision.models:resnet18")
    add("--input", type=sizes, default=sizes("1x3x224x224"), help="(1x3x224x224)")
    add("--images", type=Path, help="folder of photographs, taken as RGB from 0 to 1 (random)")
    add("--output", type=Path, default="build/assessed", help="folder for files (build/assessed)")
    add("--json", action="store_true", help="print JSON")
    return top


def add_detector(add: Callable[..., object]) -> None:
    """The options of commands that run a detector."""
    add("--checkpoint", type=Path, default=CHECKPOINT, help="float, or made by quantize (ours)")
    add("--long-side", type=int, default=640, help="reduce larger images to it (640); 0: never")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: note("warning:", message)
        # Each is about how PyTorch works inside.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor|Please use quant_min")
        warnings.filterwarnings("ignore", ".*files are not read")  # each is named at the end
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # we name what fails
        try:
            return options.run(options)
        except BrokenPipeError:  # whoever read our output wants no more, as `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            note("interrupted")
        # What a reader can mend. Anything else is a mistake, and its traceback says where.
        except (OSError, ImportError, ValueError, RuntimeError, MemoryError) as error:
            note("error:", error)
    return 1


if __name__ == "__main__":
    sys.exit(main())
