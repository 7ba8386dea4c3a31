"""Predicted masks as files: COCO JSON, index PNGs in VOC's layout, cut-outs, a table."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import contourpy
import numpy as np
import pandas as pd
from jaxtyping import Bool
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pycocotools import mask as coco_mask
from torch import Tensor

from vocseg_lib.data.classes import CLASS_FILE, CLASS_NAMES, VOID, save_map
from vocseg_lib.data.image_files import Picture
from vocseg_lib.engine.predict import detections_to_coco
from vocseg_lib.utils.files import atomic_write, open_file, write_json, write_text

WRITTEN_BY = "masks written by vocseg predict"
JSON_NAME, TABLE_NAME = "predictions.json", "detections.csv"
INFO_START = json.dumps({"info": {"description": WRITTEN_BY, "files": []}}).removesuffix("[]}}")
MAX_INFO_BYTES = 4_096
VOC_FOLDERS, CUTOUTS = ("SegmentationClass", "SegmentationObject"), "cutouts"
TABLE_COLUMNS = ("id", "file_name", "class", "score", "x", "y", "width", "height", "area")
"""Of the table: id of the annotation, its picture, predicted box, area of its mask; in pixels."""


def _written(path: Path) -> set[str]:
    """Names of what the call that wrote a JSON file wrote; none for a file of others."""
    if not path.is_file():
        return set()
    with open_file(path) as file:
        start = file.read(MAX_INFO_BYTES).decode(errors="replace")
    if not start.startswith(INFO_START):
        return set()
    with suppress(ValueError):  # cut off
        files, _ = json.JSONDecoder().raw_decode(start.removeprefix(INFO_START))
        return {*files} & {JSON_NAME, TABLE_NAME, CLASS_FILE, *VOC_FOLDERS, CUTOUTS}
    return set()


def _mark(pixels: np.ndarray) -> str:
    """What tells a PNG of this command from others, and from one that was changed."""
    return f"vocseg predict {crc32(np.ascontiguousarray(pixels)):08x}"


def _marked(pixels: np.ndarray) -> PngInfo:
    info = PngInfo()
    info.add_text("Software", _mark(pixels))
    return info


def _is_as_written(file: Path) -> bool:
    try:
        with Image.open(file) as png:
            return png.info.get("Software") == _mark(np.array(png))
    except OSError:
        return False


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
    names: list[str] = field(default_factory=list)  # of what this and earlier calls wrote
    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)
    stems: set[str] = field(default_factory=set)  # of PNGs

    def start(self) -> None:
        """Take the folder: what an earlier call wrote to it, and is as it was, is deleted.

        Raises ValueError if it has files or folders of these names that no call wrote, or PNGs
        that were changed or added.
        """
        path, names = self.folder / JSON_NAME, [JSON_NAME, TABLE_NAME]
        names += [CLASS_FILE, *VOC_FOLDERS] * self.index_pngs + [CUTOUTS] * self.cutouts
        written = _written(path)
        for name in names:
            if name not in written and (self.folder / name).exists():
                problem = f"{self.folder / name} exists, not written by this command"
                raise ValueError(f"{problem}: choose another folder")
        earlier = [
            file
            for name in sorted({CUTOUTS, *VOC_FOLDERS} & written)
            for file in sorted((self.folder / name).glob("*.png"))
        ]
        kept = [file for file in earlier if not _is_as_written(file)]
        for file in kept:
            if file.parent.name in names:
                problem = f"{file} was changed or added since this command wrote to its folder"
                raise ValueError(f"{problem}: choose another folder")
        for file in {*earlier} - {*kept}:
            file.unlink()
        self.names = sorted({*names} | written)
        self.write()

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
        while stem in self.stems:  # of a picture beside a video
            stem += "_"
        self.stems.add(stem)
        image = {"id": len(self.images) + 1, "file_name": file_name}
        image |= {"index_png": f"{stem}.png"} if self.index_pngs else {}
        self.images.append(image | {"height": height, "width": width, **of_image})
        shown = []
        for entry in detections_to_coco(image["id"], detections, (height, width)):
            is_shown = entry["score"] >= self.score
            if not is_shown and "video" in of_image:
                continue  # of thousands of frames, they would fill the memory
            area = int(coco_mask.area(entry["segmentation"]))
            number = self.annotations[-1]["id"] + 1 if self.annotations else 1
            annotation = {"id": number, **entry, "area": area, "iscrowd": 0}
            self.annotations.append(annotation)
            shown += [annotation] * is_shown
        if self.index_pngs:
            self._save_index_pngs(stem, (height, width), shown)
        if self.cutouts:
            self._save_cutouts(stem, picture, shown)

    def forget(self, file_name: str) -> None:
        """Drop what was added of a video that broke off."""
        gone = {i["id"] for i in self.images if file_name in (i["file_name"], i.get("video"))}
        self.images = [image for image in self.images if image["id"] not in gone]
        self.annotations = [a for a in self.annotations if a["image_id"] not in gone]

    def _save_index_pngs(self, stem: str, size: tuple[int, int], shown: list[dict]) -> None:
        """Where masks overlap, the best score has the pixel; a PNG has 254 objects at most."""
        stored = {name: np.zeros(size, np.uint8) for name in VOC_FOLDERS}
        for number, annotation in reversed([*enumerate(shown[: VOID - 1], 1)]):  # best last
            mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
            for pixels, value in zip(
                stored.values(), (annotation["category_id"], number), strict=True
            ):
                pixels[mask] = value
        for name, pixels in stored.items():
            with atomic_write(self.folder / name / f"{stem}.png") as temporary:
                save_map(temporary, pixels, pnginfo=_marked(pixels))

    def _save_cutouts(self, stem: str, picture: Picture, shown: list[dict]) -> None:
        """Each mask's pixels, transparent around it, in the smallest rectangle."""
        for annotation in shown:
            mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
            if not mask.any():
                continue
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            pixels = np.dstack([picture[part], 255 * mask[part].astype(np.uint8)])
            name = self.class_names[annotation["category_id"] - 1]
            safe = "".join(letter if letter.isalnum() else "_" for letter in name)
            path = self.folder / CUTOUTS / f"{stem}_{annotation['id']}_{safe}.png"
            with atomic_write(path) as temporary:
                Image.fromarray(pixels).save(temporary, "PNG", pnginfo=_marked(pixels))

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
        return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))

    def counts(self) -> pd.DataFrame:
        """Objects of each class in each picture; of a video, the most in a frame."""
        videos = {i["file_name"]: i.get("video", i["file_name"]) for i in self.images}
        table = self.table()
        counts = table.groupby(["file_name", "class"]).size().unstack(fill_value=0)
        counts = counts.reindex([*videos], fill_value=0)
        return counts.groupby(videos, sort=False).max().rename_axis("")

    def write(self) -> None:
        """Write `predictions.json` and `detections.csv`.

        The JSON is a COCO data set whose annotations have scores: pycocotools' COCO reads it, and
        all that reads prediction files.
        """
        annotations = self.annotations
        if self.polygons:
            annotations = [a | {"segmentation": self._as_polygons(a)} for a in annotations]
        categories = [{"id": k, "name": name} for k, name in enumerate(self.class_names, 1)]
        content = {"info": {"description": WRITTEN_BY, "files": self.names}, "header": self.header}
        content |= {"images": self.images, "categories": categories}
        write_json(self.folder / JSON_NAME, {**content, "annotations": annotations})
        write_text(self.folder / TABLE_NAME, self.table().round(4).to_csv(index=False))
        if self.index_pngs and tuple(self.class_names) != CLASS_NAMES:
            write_text(self.folder / CLASS_FILE, "\n".join(self.class_names) + "\n")

    def _as_polygons(self, annotation: dict) -> list | dict:
        """Polygons; the run-length code of an empty mask."""
        mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
        return mask_to_polygons(mask) or annotation["segmentation"]
