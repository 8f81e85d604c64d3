"""Who stands where: portraits, groups in rows, crowds, people scattered about."""

from .tools import Rng, log_uniform, pick, uniform

Place = tuple[float, float, float]
"""Centre x, y and width of a face, in pixels of the picture."""

LAYOUTS = {"portrait": 20, "close": 10, "group": 26, "crowd": 20, "scattered": 20, "empty": 6}


def choose_places(rng: Rng, height: int, width: int) -> list[Place]:
    """Centres x, y and face widths, in pixels of the picture, from back to front."""
    kind = pick(rng, LAYOUTS)
    if kind == "group":
        return sorted(_rows_of_people(rng, height, width), key=lambda face: face[1])
    if kind == "crowd":
        typical = log_uniform(rng, 5, 20)
        sizes = [typical * uniform(rng, 0.7, 1.5) for _ in range(rng.integers(8, 22))]
        faces = [
            (uniform(rng, 0, width), uniform(rng, 0.05, 0.95) * height, size) for size in sizes
        ]
        return sorted(faces, key=lambda face: face[1])
    counts = {"portrait": (1, 4), "close": (1, 2), "scattered": (1, 7), "empty": (0, 1)}
    sizes = {"portrait": (50, 185), "close": (130, 230), "scattered": (5, 130), "empty": (1, 2)}
    faces = []
    for _ in range(rng.integers(*counts[kind])):
        x, y = uniform(rng, 0.1, 0.9) * width, uniform(rng, 0.15, 0.8) * height
        faces.append((x, y, log_uniform(rng, *sizes[kind])))
    return sorted(faces, key=lambda face: face[2])


def _rows_of_people(rng: Rng, height: int, width: int) -> list[Place]:
    """A group that stands in one to three rows, 14 people at most."""
    faces: list[Place] = []
    size, y = log_uniform(rng, 14, 52), uniform(rng, 0.15, 0.45) * height
    for _ in range(rng.integers(1, 4)):
        x = uniform(rng, 0, 2) * size
        while x < width + size and len(faces) < 14:
            faces.append((x, y + rng.normal() * size * 0.2, size * uniform(rng, 0.88, 1.12)))
            x += size * uniform(rng, 1.5, 2.8)
        y += size * uniform(rng, 1.6, 3)
    return faces


def hides(a: Place, b: Place) -> bool:
    """Whether one face would cover nearly all of the other."""
    reach = (a[2] + b[2]) / 2
    return abs(a[0] - b[0]) < 0.45 * reach and abs(a[1] - b[1]) < 0.6 * reach
