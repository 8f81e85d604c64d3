"""Draw a folder of labelled scenes.

    python maintainers/draw.py FOLDER --count 3000 --seed 1

Scene i becomes ``0000i.jpg``; the files are the same whatever the number of workers. If the work is
interrupted, the same command goes on where it stopped. A complete folder is left alone, even if the
drawing code has changed since: delete it to have it redrawn.
"""

import argparse
import json
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from blaze_utils.data import format_labels  # noqa: E402
from maintainers.scenes import draw_scene  # noqa: E402

RECIPE_FILE, LABEL_FILE = "drawn.json", "label.txt"


def write(path: Path, data: bytes) -> None:
    """Write a file that is either whole or not there."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def draw_one(index: int, folder: Path, seed: int, quality: int) -> None:
    """Draw one scene; its label lines come last and are the sign that it is finished."""
    cv2.setNumThreads(1)
    image, faces = draw_scene(index, seed)
    name = f"{index:05d}"
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    write(folder / f"{name}.jpg", encoded.tobytes())
    write(folder / "parts" / f"{name}.txt", format_labels(f"{name}.jpg", faces).encode())


def draw_folder(folder: Path, count: int, seed: int, quality: int = 95, workers: int = 2) -> None:
    """Draw ``count`` scenes into a folder with that many processes, or what is missing of them.

    Raises:
        FileExistsError: the folder holds scenes of another recipe, or other files.
    """
    recipe = {"count": count, "seed": seed, "quality": quality}
    note, labels, parts = folder / RECIPE_FILE, folder / LABEL_FILE, folder / "parts"
    if folder.exists() and any(folder.iterdir()):
        found = json.loads(note.read_text()) if note.is_file() else "other files"
        if found != recipe:
            raise FileExistsError(f"{folder} holds {found}, not scenes drawn with {recipe}")
    if labels.is_file():
        return
    parts.mkdir(parents=True, exist_ok=True)
    write(note, (json.dumps(recipe) + "\n").encode())
    texts = [parts / f"{index:05d}.txt" for index in range(count)]
    pending = [index for index, text in enumerate(texts) if not text.is_file()]
    job = partial(draw_one, folder=folder, seed=seed, quality=quality)
    # A forked process would inherit OpenCV's pool without its threads, and wait for them forever.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(tqdm(pool.map(job, pending), f"drawing {folder.name}", len(pending)))
    write(labels, b"".join(text.read_bytes() for text in texts))
    shutil.rmtree(parts)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="made if need be")
    parser.add_argument("--count", type=int, required=True, help="number of scenes")
    parser.add_argument("--seed", type=int, required=True, help="another seed draws other scenes")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEG files, 0 to 100")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    try:
        draw_folder(**vars(parser.parse_args(arguments)))
    except FileExistsError as error:
        sys.exit(f"==> {error}; name another folder")


if __name__ == "__main__":
    main()
