"""Predicted masks as files: COCO JSON, index PNGs in VOC's layout, cut-outs, a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
import pandas as pd
from jaxtyping import Bool, UInt8
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from vocseg_lib.data.classes import CLASS_FILE, CLASS_NAMES, VOID, save_map
from vocseg_lib.data.image_files import Picture
from vocseg_lib.engine.predict import detections_to_coco
from vocseg_lib.utils.files import atomic_write, open_file, write_json, write_text

JSON_NAME, JSON_START, TABLE_NAME = "predictions.json", b'{"header": {', "detections.csv"
VOC_FOLDERS, CUTOUTS = ("SegmentationClass", "SegmentationObject"), "cutouts"
COLUMNS = ("id", "file_name", "class", "score", "x", "y", "width", "height", "area")
"""Of the table: the annotation's id, its picture, box and area of its mask in pixels."""


def mask_to_polygons(mask: Bool[np.ndarray, "h w"]) -> list[list[float]]:
    """COCO polygons of a mask, of which pycocotools makes the same pixels.

    Holes are joined to the outline around them by an edge that is walked back: it encloses nothing.
    """
    padded = np.pad(mask.astype(float), 1)
    contours = contourpy.contour_generator(z=padded, fill_type="OuterOffset")
    polygons = []
    for points, offsets in zip(*contours.filled(0.5, 2.0), strict=True):
        outline, *holes = np.split(points, offsets[1:-1])
        rings = [outline, *(part for hole in holes for part in (hole, outline[:1]))]
        polygons.append((np.concatenate(rings) - 0.5).ravel().tolist())  # of corners, not centers
    return polygons


@dataclass(kw_only=True)
class MaskFiles:
    """Detections of pictures, written to a folder: PNGs by `add`, the rest by `write`."""

    folder: Path
    class_names: Sequence[str]  # label 1 first
    header: dict[str, Any]  # of the prediction file: model, config, iteration
    polygons: bool = False  # instead of run-length codes
    index_pngs: bool = False
    cutouts: bool = False
    score: float = 0.0  # least of PNGs and table; the JSON has all detections
    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)

    def check(self) -> None:
        """Raise ValueError if the folder has files of these names that are not of such a run."""
        path = self.folder / JSON_NAME
        if path.exists():
            with open_file(path) as file:
                if file.read(len(JSON_START)) == JSON_START:
                    return
        wanted = [JSON_NAME, TABLE_NAME, *VOC_FOLDERS * self.index_pngs, *[CUTOUTS] * self.cutouts]
        for name in wanted:
            if (self.folder / name).exists():
                problem = f"{self.folder / name} exists, not written by this command"
                raise ValueError(f"{problem}: choose another folder")

    def add(
        self,
        file_name: str,
        stem: str,
        picture: Picture,
        detections: dict[str, Tensor],
        **of_image: Any,
    ) -> None:
        """Add the detections of a picture [h, w, 3]; `stem`: of the names of its PNGs.

        Boxes and masks may be of the picture when it was shrunk; `of_image` are further fields.
        """
        height, width = picture.shape[:2]
        image = {"id": len(self.images) + 1, "file_name": file_name}
        self.images.append(image | {"height": height, "width": width, **of_image})
        entries = detections_to_coco(image["id"], detections, (height, width))
        shown = []
        for number, entry in enumerate(entries, len(self.annotations) + 1):
            area = int(coco_mask.area(entry["segmentation"]))
            annotation = {"id": number, **entry, "area": area, "iscrowd": 0}
            self.annotations.append(annotation)
            shown += [annotation] * (annotation["score"] >= self.score)
        if not (self.index_pngs or self.cutouts):
            return
        masks = np.zeros((height, width, 0), bool)
        if shown:
            masks = coco_mask.decode([a["segmentation"] for a in shown]).astype(bool)
        if self.index_pngs:
            self._save_index_pngs(stem, shown, masks)
        if self.cutouts:
            self._save_cutouts(stem, picture, shown, masks)

    def _save_index_pngs(
        self, stem: str, shown: list[dict], masks: Bool[np.ndarray, "h w n"]
    ) -> None:
        """Where masks overlap, the best score has the pixel."""
        if len(shown) >= VOID:
            raise ValueError(
                f"{stem} has {len(shown)} detections, more than a PNG: raise the score"
            )
        values = [a["category_id"] for a in shown], [*range(1, len(shown) + 1)]
        for name, numbers in zip(VOC_FOLDERS, values, strict=True):
            pixels: UInt8[np.ndarray, "h w"] = np.zeros(masks.shape[:2], np.uint8)
            for k in reversed(range(len(shown))):  # best first
                pixels[masks[..., k]] = numbers[k]
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            with atomic_write(self.folder / name / f"{stem}.png") as temporary:
                save_map(temporary, pixels)

    def _save_cutouts(
        self, stem: str, picture: Picture, shown: list[dict], masks: Bool[np.ndarray, "h w n"]
    ) -> None:
        """Each mask's pixels, transparent around it, in the smallest rectangle."""
        for k, annotation in enumerate(shown):
            mask = masks[..., k]
            if not mask.any():
                continue
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            pixels = np.dstack([picture[part], 255 * mask[part].astype(np.uint8)])
            name = self.class_names[annotation["category_id"] - 1]
            safe = "".join(letter if letter.isalnum() else "_" for letter in name)
            path = self.folder / CUTOUTS / f"{stem}_{annotation['id']}_{safe}.png"
            with atomic_write(path) as temporary:
                Image.fromarray(pixels).save(temporary, "PNG")

    def table(self) -> pd.DataFrame:
        """The detections of at least `score`, one per row."""
        files = {image["id"]: image["file_name"] for image in self.images}
        rows = [
            (
                *(a["id"], files[a["image_id"]], self.class_names[a["category_id"] - 1]),
                *(a["score"], *a["bbox"], a["area"]),
            )
            for a in self.annotations
            if a["score"] >= self.score
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def counts(self) -> pd.DataFrame:
        """Objects of each class in each picture; of a video, the most in a frame."""
        videos = {i["file_name"]: i.get("video", i["file_name"]) for i in self.images}
        table = self.table()
        counts = table.groupby(["file_name", "class"]).size().unstack(fill_value=0)
        return counts.groupby(videos).max().rename_axis("")

    def write(self) -> None:
        """Write `predictions.json` and `detections.csv`.

        The JSON is a COCO data set whose annotations have scores: pycocotools' COCO reads it, and
        all that reads prediction files.
        """
        annotations = self.annotations
        if self.polygons:
            annotations = [a | {"segmentation": self._as_polygons(a)} for a in annotations]
        categories = [{"id": k, "name": name} for k, name in enumerate(self.class_names, 1)]
        content = {"header": self.header, "images": self.images, "categories": categories}
        write_json(self.folder / JSON_NAME, {**content, "annotations": annotations})
        write_text(self.folder / TABLE_NAME, self.table().round(4).to_csv(index=False))
        if self.index_pngs and tuple(self.class_names) != CLASS_NAMES:
            write_text(self.folder / CLASS_FILE, "\n".join(self.class_names) + "\n")

    def _as_polygons(self, annotation: dict) -> list | dict:
        """Polygons; the run-length code of an empty mask."""
        mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
        return mask_to_polygons(mask) or annotation["segmentation"]
