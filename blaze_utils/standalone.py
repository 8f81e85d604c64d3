"""Find faces with an exported detector, and with nothing else of this package.

    python standalone.py MODEL IMAGE [PICTURE]

Copy this file beside the exported one. MODEL is an .onnx file (which takes the package
onnxruntime), a .pte program (executorch) or a .pt file of a traced module (torch); numpy and opencv
do the rest.
Prints a line of JSON for each face: its box x1, y1, x2, y2 in pixels, its score, its five landmarks
x, y; and draws them into PICTURE, if one is named.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

MEAN_BGR = np.float32((104, 117, 123))
LEVELS = ((8, (8, 11)), (16, (14, 19, 26, 38, 64, 149)))  # stride, sides of the priors
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
LONG_SIDE, SCORE, OVERLAP = 640, 0.5, 0.4

Network = Callable[[np.ndarray], Sequence[np.ndarray]]


def join(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """loc, conf and landm from the six maps that an ExecuTorch program gives."""
    rows = [
        m.transpose(0, 2, 3, 1).reshape(1, -1, values)
        for m, values in zip(maps, (4, 4, 2, 2, 10, 10), strict=True)
    ]
    return [np.concatenate(rows[i : i + 2], axis=1) for i in (0, 2, 4)]


def load(path: Path) -> Network:
    """A function from an image [1, 3, H, W] to loc, conf and landm."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"image": x})
    import torch

    if path.suffix == ".pt":
        module = torch.jit.load(path)
        return lambda x: [output.numpy() for output in module(torch.from_numpy(x))]
    if path.suffix != ".pte":
        raise SystemExit(f"{path}: expected a name that ends in .onnx, .pte or .pt")
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    return lambda x: join([m.numpy() for m in method.execute([torch.from_numpy(x)])])


def network_input(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Reduce an image to 640 pixels, subtract the mean, pad with zeros; returns the scale, too."""
    scale = min(1.0, LONG_SIDE / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = (-(-side // 16) * 16 for side in image.shape[:2])
    padded = np.zeros((1, 3, height, width), np.float32)
    padded[0, :, : image.shape[0], : image.shape[1]] = (image - MEAN_BGR).transpose(2, 0, 1)
    return padded, scale


def priors(height: int, width: int) -> np.ndarray:
    """[P, 3]: centre x, centre y and side of each prior box, in the order of the outputs."""
    levels = []
    for stride, sides in LEVELS:
        y, x, side = np.meshgrid(
            (np.arange(height // stride) + 0.5) * stride,
            (np.arange(width // stride) + 0.5) * stride,
            sides,
            indexing="ij",
        )
        levels.append(np.stack([x, y, side], axis=-1).reshape(-1, 3))
    return np.concatenate(levels)


def find(network: Network, image: np.ndarray) -> list[dict]:
    """The faces in an image, uint8 [H, W, 3] BGR, surest first."""
    x, scale = network_input(image)
    loc, conf, landm = (output[0] for output in network(x))
    scores = 1 / (1 + np.exp(conf[:, 0] - conf[:, 1]))
    kept = scores >= SCORE
    centre, side = np.split(priors(*x.shape[2:])[kept], [2], axis=1)
    middle = centre + loc[kept, :2] * CENTRE_VARIANCE * side
    extent = side * np.exp(loc[kept, 2:] * SIZE_VARIANCE)
    points = centre[:, None] + landm[kept].reshape(-1, 5, 2) * CENTRE_VARIANCE * side[:, None]
    corner = middle - extent / 2
    boxes = np.hstack([corner, extent]) / scale  # x, y, width, height
    best = cv2.dnn.NMSBoxes(boxes.tolist(), scores[kept].tolist(), SCORE, OVERLAP)
    return [
        {
            "box": np.hstack([boxes[i, :2], boxes[i, :2] + boxes[i, 2:]]).round(1).tolist(),
            "score": round(float(scores[kept][i]), 3),
            "landmarks": (points[i] / scale).round(1).tolist(),
        }
        for i in np.array(best, int).flatten()
    ]


def draw(image: np.ndarray, faces: list[dict]) -> np.ndarray:
    """A copy of the image with boxes and landmarks."""
    image = image.copy()
    for face in faces:
        x1, y1, x2, y2 = (round(value) for value in face["box"])
        cv2.rectangle(image, (x1, y1), (x2, y2), (0, 94, 213), 2)
        for x, y in face["landmarks"]:
            cv2.circle(image, (round(x), round(y)), 2, (66, 228, 240), -1)
    return image


def main(model: str, source: str, picture: str | None = None) -> None:
    """Print the faces in one image, and draw them if a picture is named."""
    image = cv2.imdecode(np.fromfile(source, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{source}: not an image that OpenCV can decode")
    faces = find(load(Path(model)), image)
    for face in faces:
        print(json.dumps(face))
    if picture:
        cv2.imencode(Path(picture).suffix, draw(image, faces))[1].tofile(picture)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
