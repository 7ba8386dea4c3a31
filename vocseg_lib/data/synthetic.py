"""A drawn data set in VOC's layout, so that the whole study runs offline in minutes.

Seven of VOC's classes as simple shapes on textured ground: overlapping, occluded, crowded, large and small, with void
borders. Scores on it say that the code works; they say nothing about VOC 2012.
"""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from vocseg_lib.data.classes import CLASS_NAMES, VOID, save_map
from vocseg_lib.utils.files import reuse_or_clear

STAMP = "mini_voc.txt"
"""File in a drawn devkit that says how it was drawn."""
SUPERSAMPLING = 3
SMALLEST_PIXELS = 24
"""An object with fewer visible pixels than this is painted over."""
IMAGE_SIZES = ((192, 144), (144, 192), (176, 160))


@dataclass(frozen=True)
class Shape:
    """How a class is drawn: width over height, base colours (RGB) and parts in a unit box, painted in order.

    A part is (kind, coordinates, colour): colour None is the object's own, a number scales it, a triple is fixed.
    """

    aspect: float
    colours: tuple
    parts: tuple


SHAPES = {
    "aeroplane": Shape(
        2.1,
        ((205, 210, 220), (225, 225, 215), (150, 170, 200)),
        (
            ("polygon", (0.42, 0.5, 0.3, 0.0, 0.44, 0.0, 0.62, 0.5), 0.8),
            ("polygon", (0.42, 0.5, 0.3, 1.0, 0.44, 1.0, 0.62, 0.5), 0.9),
            ("polygon", (0.04, 0.5, 0.0, 0.12, 0.1, 0.12, 0.2, 0.45), 0.8),
            ("ellipse", (0.02, 0.34, 1.0, 0.66), None),
            ("ellipse", (0.86, 0.42, 0.95, 0.54), (60, 80, 120)),
        ),
    ),
    "bottle": Shape(
        0.36,
        ((30, 110, 50), (120, 70, 20), (40, 130, 110)),
        (
            ("rectangle", (0.36, 0.0, 0.64, 0.3), 0.8),
            ("polygon", (0.36, 0.24, 0.64, 0.24, 1.0, 0.42, 0.0, 0.42), 0.9),
            ("rectangle", (0.0, 0.4, 1.0, 1.0), None),
            ("rectangle", (0.0, 0.56, 1.0, 0.8), (235, 230, 200)),
        ),
    ),
    "bus": Shape(
        1.9,
        ((200, 40, 40), (230, 180, 30), (210, 90, 30)),
        (
            ("rectangle", (0.0, 0.05, 1.0, 0.86), None),
            ("rectangle", (0.05, 0.16, 0.3, 0.46), (170, 210, 235)),
            ("rectangle", (0.36, 0.16, 0.62, 0.46), (170, 210, 235)),
            ("rectangle", (0.68, 0.16, 0.95, 0.46), (170, 210, 235)),
            ("ellipse", (0.1, 0.68, 0.28, 1.0), (25, 25, 25)),
            ("ellipse", (0.7, 0.68, 0.88, 1.0), (25, 25, 25)),
        ),
    ),
    "person": Shape(
        0.42,
        ((50, 70, 170), (170, 50, 140), (90, 60, 160)),
        (
            ("rectangle", (0.2, 0.6, 0.45, 1.0), (40, 40, 60)),
            ("rectangle", (0.55, 0.6, 0.8, 1.0), (40, 40, 60)),
            ("polygon", (0.1, 0.24, 0.9, 0.24, 1.0, 0.6, 0.0, 0.6), None),
            ("ellipse", (0.26, 0.0, 0.74, 0.26), (225, 175, 140)),
        ),
    ),
    "pottedplant": Shape(
        0.72,
        ((60, 160, 40), (90, 180, 60), (40, 140, 60)),
        (
            ("ellipse", (0.0, 0.1, 0.6, 0.5), 0.8),
            ("ellipse", (0.4, 0.05, 1.0, 0.5), 0.9),
            ("ellipse", (0.25, 0.0, 0.75, 0.62), None),
            ("polygon", (0.18, 0.58, 0.82, 0.58, 0.7, 1.0, 0.3, 1.0), (175, 90, 50)),
        ),
    ),
    "sheep": Shape(
        1.35,
        ((240, 238, 230), (222, 214, 196), (205, 205, 205)),
        (
            ("rectangle", (0.25, 0.7, 0.33, 1.0), (50, 40, 40)),
            ("rectangle", (0.6, 0.7, 0.68, 1.0), (50, 40, 40)),
            ("ellipse", (0.1, 0.2, 0.6, 0.85), None),
            ("ellipse", (0.3, 0.1, 0.85, 0.85), None),
            ("ellipse", (0.74, 0.16, 1.0, 0.52), (50, 40, 40)),
        ),
    ),
    "tvmonitor": Shape(
        1.25,
        ((40, 42, 48), (70, 66, 62), (25, 30, 45)),
        (
            ("polygon", (0.42, 0.8, 0.58, 0.8, 0.72, 1.0, 0.28, 1.0), 0.8),
            ("rectangle", (0.0, 0.0, 1.0, 0.82), None),
            ("rectangle", (0.08, 0.09, 0.92, 0.72), (70, 150, 220)),
            ("polygon", (0.08, 0.72, 0.5, 0.09, 0.7, 0.09, 0.3, 0.72), (120, 185, 240)),
        ),
    ),
}


def write(folder: str | Path, train: int = 1_600, val: int = 80, seed: int = 0) -> Path:
    """Write `folder`/VOCdevkit/VOC2012 with `train` + `val` drawn images and return it; the same seed, the same bytes.

    A devkit that is there already is used as it is when it was written with the same numbers, and written anew when not.
    """
    devkit = Path(folder) / "VOCdevkit" / "VOC2012"
    made = devkit / STAMP
    # The checksum of this file: a devkit drawn by another version of the code is not the same data.
    stamp = (
        f"train={train} val={val} seed={seed} code={zlib.crc32(Path(__file__).read_bytes()):08x}\n"
    )
    if reuse_or_clear(made, stamp):
        return devkit
    for part in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (devkit / part).mkdir(parents=True)
    names = [f"mini_{i:06d}" for i in range(train + val)]
    for i, name in enumerate(tqdm(names, desc="draw mini VOC", unit="image")):
        image, object_map, class_map = draw_scene(
            np.random.default_rng([seed, i]), awkward=i % 100 if i % 100 < 2 else None
        )
        Image.fromarray(image).save(devkit / "JPEGImages" / f"{name}.jpg", quality=90)
        for folder_name, pixels in (
            ("SegmentationObject", object_map),
            ("SegmentationClass", class_map),
        ):
            save_map(devkit / folder_name / f"{name}.png", pixels)
    for split, members in (("train", names[:train]), ("val", names[train:]), ("trainval", names)):
        (devkit / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(
            "".join(f"{n}\n" for n in members)
        )
    made.write_text(stamp)
    return devkit


def draw_scene(
    rng: np.random.Generator, awkward: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scene: RGB image [h, w, 3], object map and class map [h, w], all uint8.

    `awkward` 0 is a grey image whose object is cut by every border, 1 a single tiny object.
    """
    width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    image = _background(rng, width, height)
    object_map = np.zeros((height, width), dtype=np.uint8)
    labels = []
    for class_name, box, flip in _layout(rng, width, height, awkward):
        labels.append(CLASS_NAMES.index(class_name) + 1)
        painted, colour = _draw_object(rng, SHAPES[class_name], box, flip, width, height)
        object_map[painted] = len(labels)
        image[painted] = colour[painted]
    object_map = _with_void_borders(object_map)
    class_map = np.where(object_map == VOID, VOID, 0).astype(np.uint8)
    kept = 0
    for k, label in enumerate(labels, 1):
        visible = object_map == k
        if visible.sum() < SMALLEST_PIXELS and awkward is None:
            object_map[visible] = class_map[visible] = VOID
        elif visible.any():
            kept += 1
            object_map[visible], class_map[visible] = kept, label
    noise = rng.normal(0, 6, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if awkward == 0:
        image[:] = image.mean(2, keepdims=True).astype(np.uint8)
    return image, object_map, class_map


def _layout(rng: np.random.Generator, width: int, height: int, awkward: int | None) -> list[tuple]:
    """Objects from back to front as (class name, (x, y, w, h) in pixels, mirrored)."""
    names = list(SHAPES)

    def place(name: str, object_height: float, x: float, y: float) -> tuple:
        size = (object_height * SHAPES[name].aspect, object_height)
        return name, (x - size[0] / 2, y - size[1] / 2, *size), bool(rng.integers(2))

    if awkward == 0:
        return [place("bus", 1.25 * height, width / 2, height / 2)]
    if awkward == 1:
        return [place("sheep", 12, width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))]
    objects = []
    for _ in range(rng.integers(1, 4)):
        name = names[rng.integers(len(names))]
        # The same area for every class, whatever its shape: 18 to 80 pixels a side.
        object_height = math.exp(rng.uniform(math.log(22), math.log(84))) / math.sqrt(
            SHAPES[name].aspect
        )
        objects.append(
            place(
                name,
                object_height,
                width * rng.uniform(0.12, 0.88),
                height * rng.uniform(0.15, 0.85),
            )
        )
    if rng.random() < 0.35:  # a crowd: neighbours of one class that overlap
        name = names[rng.integers(len(names))]
        object_height = rng.uniform(26, 42) / math.sqrt(SHAPES[name].aspect)
        step = object_height * SHAPES[name].aspect * rng.uniform(0.55, 0.95)
        count = int(rng.integers(3, 6))
        x, y = rng.uniform(0.2, 0.5) * width, rng.uniform(0.35, 0.75) * height
        objects += [
            place(name, object_height, x + i * step, y + rng.uniform(-3, 3)) for i in range(count)
        ]
    return objects


def _draw_object(
    rng: np.random.Generator, shape: Shape, box: tuple, flip: bool, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that the object covers [h, w] bool and its colours [h, w, 3] float."""
    x, y, w, h = (v * SUPERSAMPLING for v in box)
    size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    base = np.array(shape.colours[rng.integers(len(shape.colours))]) + rng.normal(0, 14, 3)
    colour, mask = Image.new("RGB", size), Image.new("L", size)
    draw_colour, draw_mask = ImageDraw.Draw(colour), ImageDraw.Draw(mask)
    for kind, coordinates, tint in shape.parts:
        u, v = np.array(coordinates[0::2]), np.array(coordinates[1::2])
        u = 1 - u if flip else u
        points = np.stack([x + u * w, y + v * h], 1)
        if kind != "polygon":  # PIL wants the corners in order
            points = np.sort(points, axis=0)
        rgb = np.array(tint) if isinstance(tint, tuple) else base * (tint or 1.0)
        flat = points.ravel().tolist()
        getattr(draw_colour, kind)(flat, fill=tuple(np.clip(rgb, 0, 255).astype(int).tolist()))
        getattr(draw_mask, kind)(flat, fill=255)
    painted = np.array(mask.resize((width, height), Image.Resampling.BOX)) > 127
    shaded = np.array(colour.resize((width, height), Image.Resampling.BOX)).astype(float)
    shading = _texture(rng, width, height, cells=int(rng.integers(3, 9)), strength=22)
    return painted, shaded + shading[..., None]


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Textured ground with unlabelled clutter, float [h, w, 3]."""
    base = rng.uniform(60, 200, 3)
    ground = np.stack(
        [_texture(rng, width, height, int(rng.integers(2, 12)), 40) + base[c] for c in range(3)], -1
    )
    canvas = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 7)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        w, h = rng.uniform(4, 46, 2)
        kind = ("rectangle", "ellipse")[rng.integers(2)]
        getattr(draw, kind)((x, y, x + w, y + h), fill=tuple(rng.integers(30, 230, 3).tolist()))
    return np.array(canvas).astype(float)


def _texture(
    rng: np.random.Generator, width: int, height: int, cells: int, strength: float
) -> np.ndarray:
    """Smooth noise of `cells` bumps a side, float [h, w]."""
    coarse = Image.fromarray(rng.normal(0, strength, (cells, cells)).astype(np.float32))
    return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _with_void_borders(object_map: np.ndarray) -> np.ndarray:
    """VOC's void border: both pixels of every pair of neighbours that belong to different things."""
    border = np.zeros(object_map.shape, dtype=bool)
    across, down = object_map[:, 1:] != object_map[:, :-1], object_map[1:] != object_map[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return np.where(border, VOID, object_map).astype(np.uint8)
