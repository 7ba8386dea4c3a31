"""The gallery as one HTML page that needs nothing else: pictures, contours and filters inside it."""

import base64
import io
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from contourpy import contour_generator
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import MISSED
from vocseg_lib.failures.tide import ERRORS
from vocseg_lib.plots.gallery import BLAMED, LOST, OTHERS, TARGET, Gallery
from vocseg_lib.plots.images import Layer
from vocseg_lib.utils.files import atomic_write

ROLES = {BLAMED: "blamed", TARGET: "target", OTHERS: "others", LOST: "lost"}
FILTERS = ("model", "type", "class", "size", "crowding")
MOST_BYTES = 9_500_000
ORDER = (*MASK_FAILURES, *MISSED, *ERRORS)
WITH_PARTS = 2
"""Cases of a type and model for which the insides of the models are shown."""


def export_page(
    gallery: Gallery, path: str | Path, most: int = 12, most_bytes: int = MOST_BYTES
) -> tuple[Path, str]:
    """Write the worst `most` cases of each type and model, as many as fit into `most_bytes`, as one page; its path, and in words
    what it holds.

    The worst ones of all types come first, so that what does not fit are the least bad. A picture that cannot be read is
    named on the page, its cases left out.
    """
    images, cases, unread, size = {}, [], [], 0
    for rank, row in _worst_first(gallery, most):
        image_id = row["image_id"]
        if image_id in unread:
            continue
        if image_id not in images:
            try:
                images[image_id] = _image(gallery, image_id)
            except (OSError, ValueError):
                unread.append(image_id)
                continue
            size += len(images[image_id]["src"])
        case = _case(gallery, row, with_parts=rank < WITH_PARTS)
        size += len(json.dumps(case))
        if size > most_bytes:
            break
        cases.append(case)
    used = {case["image"] for case in cases}
    about = f"The worst {len(cases)} of {len(gallery.cases)} failures of {' and '.join(gallery.analyses)}, the worst of a type first."
    if unread:
        about += f" Not readable, and left out: {', '.join(gallery.images[i]['file_name'] for i in unread)}."
    content = {
        "about": about,
        "colours": {role: colour for colour, role in ROLES.items()},
        "filters": {name: list(dict.fromkeys(case[name] for case in cases)) for name in FILTERS},
        "images": {str(i): image for i, image in images.items() if str(i) in used},
        "cases": cases,
    }
    text = json.dumps(content, separators=(",", ":")).replace(
        "<", "\\u003c"
    )  # so that nothing in it ends its script
    template = (files("vocseg_lib.plots") / "gallery_page.html").read_text(encoding="utf-8")
    with atomic_write(Path(path)) as beside:
        beside.write_text(template.replace("$DATA", text, 1), encoding="utf-8")
    return Path(path), about


def _worst_first(gallery: Gallery, most: int) -> Iterator[tuple[int, pd.Series]]:
    """(rank within its type and model, case), by rank."""
    cases = gallery.select()
    rank = cases.groupby(["type", "model"]).cumcount()
    order = pd.DataFrame({"rank": rank, "type": cases["type"].map(ORDER.index)})[rank < most]
    for row in order.sort_values(["rank", "type"], kind="stable").itertuples():
        yield row.rank, cases.loc[row.Index]


def _image(gallery: Gallery, image_id: int) -> dict:
    pixels = gallery.picture(image_id)
    height, width = pixels.shape[:2]
    return {
        "name": gallery.name(image_id),
        "width": width,
        "height": height,
        "src": _source(Image.fromarray(pixels), "JPEG"),
    }


def _case(gallery: Gallery, row: pd.Series, with_parts: bool) -> dict:
    facts = {name: row[name] for name in FILTERS}
    return {
        **facts,
        "alone": bool(row["only this model"]),
        "image": str(row["image_id"]),
        "sentence": gallery.sentence(row),
        "window": gallery.window(row),
        "truth": [_drawn(layer) for layer in gallery.truth_layers(row)],
        "found": {
            title: [_drawn(layer) for layer in gallery.found_layers(row, title)]
            for title in gallery.analyses
        },
        "parts": [[name, _map_source(values)] for name, values in gallery.mask_terms(row)]
        if with_parts
        else [],
    }


def _drawn(layer: Layer) -> dict:
    box = [round(float(v), 1) for v in layer.box] if layer.box is not None else None
    return {
        "role": ROLES[layer.color],
        "path": outline(layer.mask),
        "box": box,
        "text": layer.text,
        "dotted": layer.dotted,
    }


def outline(mask: np.ndarray) -> str:
    """The contours of a mask [h, w] as an SVG path, corners in half pixels."""
    framed = np.pad(mask, 1).astype(float)
    lines = contour_generator(z=framed).lines(0.5)
    return "".join(_line(np.round(2 * (line - 0.5)) / 2) for line in lines)


def _line(points: np.ndarray) -> str:
    """A closed line without the points on its straight parts."""
    steps = np.diff(points, axis=0)
    turns = np.r_[True, (np.abs(np.diff(steps, axis=0)) > 1e-6).any(1)]
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points[:-1][turns]) + "Z"


def _map_source(values: Tensor) -> str:
    """A map [h, w] in colours, from its own lowest to its highest value."""
    pixels = values.cpu().numpy().astype(float)
    scaled = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-9)
    return _source(Image.fromarray(colormaps["cividis"](scaled, bytes=True)[..., :3]), "PNG")


def _source(picture: Image.Image, kind: str) -> str:
    data = io.BytesIO()
    picture.save(data, kind, **({"quality": 65} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
