"""A synthetic data set in VOC's layout, so that the whole study runs offline in minutes.

Seven of VOC's classes as simple shapes on textured ground: overlapping, occluded, crowded, large
and small, with void borders. Scores on it show that the code works, not how good a model is.
"""

import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from vocseg_lib.data.classes import CLASS_NAMES, VOID, save_map
from vocseg_lib.data.voc import make_devkit_folders, write_splits
from vocseg_lib.utils.files import is_current, read_json, rebuild_folder

STAMP_NAME = "synthetic.json"  # file in a devkit with the numbers that it was made with
RNG = np.random.Generator
SUPERSAMPLING = 3
MIN_VISIBLE_PIXELS = 24  # an object with fewer becomes void
IMAGE_SIZES = ((192, 144), (144, 192), (176, 160))
SHAPES_FILE = Path(__file__).with_name("synthetic_shapes.json")
SHAPES = read_json(SHAPES_FILE)
"""By class: aspect (width / height), base colors (RGB) and parts in a unit box, back to front:
kind, coordinates and color, which is the base (None), a factor of it, or RGB."""


def write(folder: str | Path, train: int = 1_600, val: int = 80, seed: int = 0) -> Path:
    """Write `folder`/VOCdevkit/VOC2012 with `train` + `val` synthetic images; return its path.

    The same seed gives the same bytes. A devkit of the same numbers is reused, another replaced.
    Raises FileExistsError when the folder holds other or changed files.
    """
    devkit = Path(folder) / "VOCdevkit" / "VOC2012"
    # A checksum of the code: a devkit from another version of it is not the same data.
    code = f"{zlib.crc32(Path(__file__).read_bytes() + SHAPES_FILE.read_bytes()):08x}"
    numbers = {"train": train, "val": val, "seed": seed, "code": code}
    record = {"made_with": numbers}
    if is_current(devkit, STAMP_NAME, record):
        return devkit
    names = [f"mini_{i:06d}" for i in range(train + val)]
    with rebuild_folder(devkit, STAMP_NAME, record) as folder:
        if not folder:
            return devkit
        make_devkit_folders(folder)
        for i, name in enumerate(tqdm(names, desc="synthetic VOC", unit="image")):
            nth = i % 97  # a prime: evenly spaced images are not all edge cases
            scene = make_scene(np.random.default_rng([seed, i]), nth if nth < 2 else None)
            image, object_map, class_map = scene
            Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.jpg", quality=90)
            save_map(folder / "SegmentationObject" / f"{name}.png", object_map)
            save_map(folder / "SegmentationClass" / f"{name}.png", class_map)
        write_splits(folder, names[:train], names[train:])
    return devkit


def make_scene(rng: RNG, edge_case: int | None = None) -> tuple[np.ndarray, ...]:
    """One scene: RGB image [h, w, 3], object map and class map [h, w], all uint8.

    `edge_case` 0 is a gray image whose object is cut by every border, 1 a single tiny object.
    """
    size = width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    image = _background(rng, size)
    # Paint the objects, back to front, and mark the borders between them.
    object_map = np.zeros((height, width), dtype=np.uint8)
    labels = []
    for name, box, flip in _layout(rng, size, edge_case):
        labels.append(CLASS_NAMES.index(name) + 1)
        covered, colors = _draw_object(rng, SHAPES[name], box, flip, size)
        object_map[covered] = len(labels)
        image[covered] = colors[covered]
    object_map = _with_void_borders(object_map)
    # Number the objects that are still visible; what is left of the others is void.
    class_map = np.where(object_map == VOID, VOID, 0).astype(np.uint8)
    count = 0
    for k, label in enumerate(labels, 1):
        visible = object_map == k
        if visible.sum() < MIN_VISIBLE_PIXELS and edge_case is None:
            object_map[visible] = class_map[visible] = VOID
        elif visible.any():
            count += 1
            object_map[visible], class_map[visible] = count, label
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    if edge_case == 0:
        image[:] = image.mean(2, keepdims=True).astype(np.uint8)
    return image, object_map, class_map


def _layout(rng: RNG, size: tuple[int, int], edge_case: int | None) -> list[tuple]:
    """Objects from back to front as (class name, (x, y, w, h) in pixels, mirrored)."""
    width, height = size

    def placed(name: str, h: float, x: float, y: float) -> tuple:
        w = h * SHAPES[name]["aspect"]
        return name, (x - w / 2, y - h / 2, w, h), bool(rng.integers(2))

    if edge_case == 0:
        return [placed("bus", 1.25 * height, width / 2, height / 2)]
    if edge_case == 1:
        return [placed("sheep", 12, width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))]
    names, objects = list(SHAPES), []
    for _ in range(rng.integers(1, 4)):
        name = names[rng.integers(len(names))]
        # The same area for every class, whatever its shape: 22 to 84 pixels per side.
        side = math.exp(rng.uniform(math.log(22), math.log(84)))
        x, y = width * rng.uniform(0.12, 0.88), height * rng.uniform(0.15, 0.85)
        objects.append(placed(name, side / math.sqrt(SHAPES[name]["aspect"]), x, y))
    if rng.random() < 0.35:  # a crowd: neighbors of one class that overlap
        name = names[rng.integers(len(names))]
        h = rng.uniform(26, 42) / math.sqrt(SHAPES[name]["aspect"])
        step = h * SHAPES[name]["aspect"] * rng.uniform(0.55, 0.95)
        count = int(rng.integers(3, 6))
        x, y = rng.uniform(0.2, 0.5) * width, rng.uniform(0.35, 0.75) * height
        for i in range(count):
            objects.append(placed(name, h, x + i * step, y + rng.uniform(-3, 3)))
    return objects


def _draw_object(
    rng: RNG, shape: dict, box: tuple, flip: bool, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that the object covers, bool [h, w], and its colors, float [h, w, 3]."""
    x, y, w, h = (v * SUPERSAMPLING for v in box)
    base = np.array(shape["colors"][rng.integers(len(shape["colors"]))]) + rng.normal(0, 14, 3)
    color, mask = (Image.new(mode, [v * SUPERSAMPLING for v in size]) for mode in ("RGB", "L"))
    for kind, coordinates, tint in shape["parts"]:
        u, v = np.array(coordinates[0::2]), np.array(coordinates[1::2])
        points = np.stack([x + (1 - u if flip else u) * w, y + v * h], 1)
        if kind != "polygon":  # PIL wants the corners in order
            points = np.sort(points, axis=0)
        rgb = np.array(tint) if isinstance(tint, list) else base * (tint or 1.0)
        fill, flat = tuple(np.clip(rgb, 0, 255).astype(int).tolist()), points.ravel().tolist()
        getattr(ImageDraw.Draw(color), kind)(flat, fill=fill)
        getattr(ImageDraw.Draw(mask), kind)(flat, fill=255)
    covered, colors = (np.array(i.reduce(SUPERSAMPLING)) for i in (mask, color))
    shading = _texture(rng, size, cells=int(rng.integers(3, 9)), strength=22)
    return covered > 127, colors.astype(float) + shading[..., None]


def _background(rng: RNG, size: tuple[int, int]) -> np.ndarray:
    """Textured ground with unlabeled clutter, float [h, w, 3]."""
    base = rng.uniform(60, 200, 3)
    ground = [_texture(rng, size, int(rng.integers(2, 12)), 40) + b for b in base]
    canvas = Image.fromarray(np.clip(np.stack(ground, -1), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 7)):
        (x, y), (w, h) = rng.uniform(0, size), rng.uniform(4, 46, 2)
        kind = ("rectangle", "ellipse")[rng.integers(2)]
        getattr(draw, kind)((x, y, x + w, y + h), fill=tuple(rng.integers(30, 230, 3).tolist()))
    return np.array(canvas).astype(float)


def _texture(rng: RNG, size: tuple[int, int], cells: int, strength: float) -> np.ndarray:
    """Smooth noise with `cells` bumps per side, float [h, w]."""
    coarse = Image.fromarray(rng.normal(0, strength, (cells, cells)).astype(np.float32))
    return np.array(coarse.resize(size, Image.Resampling.BICUBIC))


def _with_void_borders(object_map: np.ndarray) -> np.ndarray:
    """VOC's void borders: both pixels of each pair of neighbors in different objects."""
    padded = np.pad(object_map, 1, mode="edge")
    neighbors = padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2]
    border = np.any([neighbor != object_map for neighbor in neighbors], axis=0)
    return np.where(border, VOID, object_map).astype(np.uint8)
