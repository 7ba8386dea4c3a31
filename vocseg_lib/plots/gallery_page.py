"""The gallery as one HTML page that works offline, with pictures, contours and filters."""

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
from vocseg_lib.plots.gallery import ROLE_COLORS, Gallery
from vocseg_lib.plots.images import Layer
from vocseg_lib.utils.files import write_text

FILTERS = ("model", "type", "class", "size", "crowding")
MAX_BYTES = 9_500_000
TYPE_ORDER = (*MASK_FAILURES, *MISSED, *ERRORS)
WITH_MASK_TERMS = 2
"""Cases per type and model that show the models' mask terms."""


def export_page(
    gallery: Gallery, path: str | Path, max_cases: int = 12, max_bytes: int = MAX_BYTES
) -> tuple[Path, str]:
    """Write the worst cases of each type and model, as many as fit; the path and a summary.

    The worst of all types come first. Cases on an unreadable picture are left out, and the summary
    has its name. Raises ValueError if none is readable.
    """
    images, cases, unreadable, size = {}, [], [], 0
    for rank, row in _worst_first(gallery, max_cases):
        image_id = row["image_id"]
        if image_id in unreadable:
            continue
        if image_id not in images:
            try:
                pixels = gallery.picture(image_id)
            except (OSError, ValueError):
                unreadable.append(image_id)
                continue
            image = {"name": gallery.name(image_id), "src": _data_url(pixels, "JPEG", quality=65)}
            images[image_id] = image | {"width": pixels.shape[1], "height": pixels.shape[0]}
            size += len(images[image_id]["src"])
        cases.append(_case(gallery, row, with_terms=rank < WITH_MASK_TERMS))
        size += len(json.dumps(cases[-1]))
        if size > max_bytes:
            cases.pop()
            break
    used, models = {case["image"] for case in cases}, " and ".join(gallery.analyses)
    summary = f"The worst {len(cases)} of {len(gallery.cases)} failures of {models}."
    if unreadable:
        names = ", ".join(gallery.images[i]["file_name"] for i in unreadable)
        summary += f" Left out, as the pictures cannot be read: {names}."
        if not cases:
            raise ValueError(f"no readable picture of a failure in {gallery.folder}: {names}")
    content = {
        "summary": summary,
        "colors": ROLE_COLORS,
        "filters": {name: list(dict.fromkeys(case[name] for case in cases)) for name in FILTERS},
        "images": {str(i): image for i, image in images.items() if str(i) in used},
        "cases": cases,
    }
    # Without "<", nothing in the data ends its script element.
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    template = (files("vocseg_lib.plots") / "gallery_page.html").read_text(encoding="utf-8")
    write_text(Path(path), template.replace("$DATA", text, 1))
    return Path(path), summary


def _worst_first(gallery: Gallery, max_cases: int) -> Iterator[tuple[int, pd.Series]]:
    """(rank within its type and model, case), by rank."""
    cases = gallery.select()
    rank = cases.groupby(["type", "model"]).cumcount()
    order = pd.DataFrame({"rank": rank, "type": cases["type"].map(TYPE_ORDER.index)})
    order = order[rank < max_cases].sort_values(["rank", "type"], kind="stable")
    for row in order.itertuples():
        yield row.rank, cases.loc[row.Index]


def _case(gallery: Gallery, row: pd.Series, with_terms: bool) -> dict:
    terms = gallery.mask_terms(row) if with_terms else []
    layers = {title: gallery.detection_layers(row, title) for title in gallery.analyses}
    return {
        **{name: row[name] for name in FILTERS},
        "only_this_model": bool(row["only this model"]),
        "image": str(row["image_id"]),
        "sentence": gallery.sentence(row),
        "window": gallery.window(row),
        "ground_truth": [_layer(layer) for layer in gallery.ground_truth_layers(row)],
        "detections": {title: [_layer(layer) for layer in part] for title, part in layers.items()},
        "mask_terms": [[name, _map_url(values)] for name, values in terms],
    }


def _layer(layer: Layer) -> dict:
    role = next(role for role, color in ROLE_COLORS.items() if color == layer.color)
    box = [round(float(v), 1) for v in layer.box] if layer.box is not None else None
    style = {"text": layer.text, "dotted": layer.dotted}
    return {"role": role, "path": outline(layer.mask), "box": box, **style}


def outline(mask: np.ndarray) -> str:
    """The contours of a mask [h, w] as an SVG path, corners in half pixels."""
    padded, path = np.pad(mask, 1).astype(float), ""
    for line in contour_generator(z=padded).lines(0.5):
        points = np.round(2 * (line - 0.5)) / 2
        # Points on straight parts are left out.
        turns = np.r_[True, (np.abs(np.diff(points, 2, axis=0)) > 1e-6).any(1)]
        path += "M" + "L".join(f"{x:g},{y:g}" for x, y in points[:-1][turns]) + "Z"
    return path


def _map_url(values: Tensor) -> str:
    """A map [h, w] in colors, from its lowest to its highest value."""
    pixels = values.cpu().numpy().astype(float)
    scaled = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-9)
    return _data_url(colormaps["cividis"](scaled, bytes=True)[..., :3], "PNG")


def _data_url(pixels: np.ndarray, kind: str, **options: int) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
