"""Draws scenes with faces: a training set that nobody has to download.

Every scene is a function of its seed and index alone. The modules build on each other in this
order: tools, look (what a person is like), skull (the solid), features, hair, accessories, head,
body, things, background, camera, layout, placing, scene (puts it all together).
"""

from .scene import draw_scene

__all__ = ["draw_scene"]
