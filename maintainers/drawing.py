"""Draws scenes into a folder with several processes, so that the work can be interrupted.

This module imports neither torch nor the drawing itself: its processes start in a second.
"""
from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from blaze_utils.progress import tqdm

from blaze_utils.files import write_atomically
from blaze_utils.data.datasets import FaceFolder
from blaze_utils.data.images import DatasetError
from blaze_utils.data.labels import FaceLabels, LABEL_FILE, format_labels
from maintainers.scenes import draw_scene

RECIPE_FILE = "drawn.json"

Draw = Callable[..., tuple[np.ndarray, FaceLabels]]


def draw_folder(
    root: str | Path,
    count: int,
    seed: int,
    draw: Draw,
    workers: int = 2,
    quality: int = 95,
    progress: bool = True,
) -> None:
    """Draw scenes into a folder, with their label file; see ``datasets.draw_dataset``.

    A finished scene is its image and its label lines, which lie under ``parts/`` until all scenes
    are there; then ``label.txt`` is written and ``parts/`` removed.

    Args:
        draw: ``draw(index, seed=seed) -> (image uint8 [H, W, 3] BGR, FaceLabels)``; with several
            workers a function that other processes can import.

    Raises:
        ValueError: ``count`` or ``workers`` is below 1.
        DatasetError: the folder holds scenes of another count, seed or quality, or other files.
    """
    if count < 1 or workers < 1:
        raise ValueError(f"count ({count}) and workers ({workers}) must be at least 1")
    root = Path(root)
    _claim(root, {"count": count, "seed": seed, "quality": quality})
    names = [f"{index:05d}.jpg" for index in range(count)]
    parts = root / "parts"
    if not _is_complete(root, names):
        parts.mkdir(exist_ok=True)
        pending = [index for index, name in enumerate(names) if not _is_drawn(root, name)]
        job = partial(_draw_file, root=root, seed=seed, quality=quality, draw=draw)
        with _mapper(min(workers, len(pending))) as run:
            bar = tqdm(run(job, pending), "drawing scenes", count, initial=count - len(pending),
                       unit="scene", disable=not progress)
            for _ in bar:
                pass
        blocks = [_part(root, name).read_bytes() for name in names]
        write_atomically(root / LABEL_FILE, b"".join(blocks))
    if parts.is_dir():
        shutil.rmtree(parts)


def _claim(root: Path, recipe: dict[str, int]) -> None:
    """Note what is drawn into ``root``; refuse a folder that holds anything else."""
    note = root / RECIPE_FILE
    if note.is_file():
        found = json.loads(note.read_text(encoding="utf-8"))
        if found != recipe:
            raise DatasetError(f"{root} holds scenes drawn with {found}, not with {recipe}: "
                               "delete the folder or use another one")
    elif root.exists() and any(root.iterdir()):
        raise DatasetError(f"{root} is not empty and has no {RECIPE_FILE}: use another folder")
    else:
        root.mkdir(parents=True, exist_ok=True)
        write_atomically(note, (json.dumps(recipe) + "\n").encode("utf-8"))


def _part(root: Path, name: str) -> Path:
    return (root / "parts" / name).with_suffix(".txt")


def _is_drawn(root: Path, name: str) -> bool:
    return (root / name).is_file() and _part(root, name).is_file()


def _is_complete(root: Path, names: Iterable[str]) -> bool:
    return (root / LABEL_FILE).is_file() and all((root / name).is_file() for name in names)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    """A ``map`` over that many processes; with less than two, the ordinary one."""
    if workers < 2:
        yield map
        return
    # "spawn" is the one way to start processes that works on every system, CUDA in use or not.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        yield partial(pool.map, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt must not wait for all scenes to come


def _draw_file(index: int, root: Path, seed: int, quality: int, draw: Draw) -> None:
    image, labels = draw(index, seed=seed)
    name = f"{index:05d}.jpg"
    encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise DatasetError(f"scene {index} could not be encoded as JPEG")
    write_atomically(root / name, data.tobytes())
    # The label lines come last: they are the sign that the scene is finished.
    write_atomically(_part(root, name), format_labels(name, labels).encode("utf-8"))


def draw_dataset(
    root: str | Path,
    count: int,
    seed: int,
    workers: int = 2,
    quality: int = 95,
    draw: Draw = draw_scene,
    progress: bool = True,
) -> FaceFolder:
    """Draw ``count`` scenes into a folder, or take what is already there, and open the folder.

    Scene i becomes ``0000i.jpg``; the files are the same whatever the number of workers.  If the
    work is interrupted, the next call goes on where it stopped.  A complete folder is not drawn
    again, even if the drawing code has changed since: delete it to have it redrawn.

    Args:
        root: the folder, made if need be; ``drawn.json`` in it notes count, seed and quality.
        count: number of scenes, at least 1.
        seed: the same seed gives the same scenes.
        workers: processes; 1 draws in this process.  With more, a script needs the usual
            ``if __name__ == "__main__":`` around its own work; a notebook needs nothing.
        quality: of the JPEG files, 0 to 100.
        draw: ``draw(index, seed=seed) -> (image uint8 [H, W, 3] BGR, FaceLabels)``.
        progress: whether to show a progress bar.

    Raises:
        ValueError: ``count`` or ``workers`` is below 1.
        DatasetError: the folder holds scenes of another count, seed or quality, or other files.
    """
    draw_folder(root, count, seed, draw, workers, quality, progress)
    return FaceFolder(root)
