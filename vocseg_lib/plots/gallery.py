"""Failure gallery: the worst cases of each type on the pictures, models side by side."""

import os.path
import sys
import textwrap
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from torch import Tensor

from vocseg_lib.data.coco_validation import UNCROPPED, bbox_xywh
from vocseg_lib.data.image_files import BadFile, fit_as_stored, read_fitting, without_ending
from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.explain import explain_failure
from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import CASE_TYPES, DETECTED
from vocseg_lib.failures.tide import BACKGROUND_ERROR, ERRORS
from vocseg_lib.plots import style
from vocseg_lib.plots.images import DRAWN_SCORE, Layer, boxes_overlap, draw_layers, picture_folder
from vocseg_lib.plots.style import COLORS, add_suptitle, new_axes, short, show_as_written
from vocseg_lib.utils.rle import decode_rle

ROLE_COLORS = {"error": COLORS[1], "target": COLORS[2], "other": COLORS[5], "missed": COLORS[6]}
"""Colors of a case's detection, its object, all others, and its object in the models' panels."""
MAX_NEIGHBORS = 6
"""Detections plotted around a case, by descending score."""
WINDOW_SCALE, MIN_WINDOW = 2.0, 0.4
"""Side of the window around a case: in sides of its box; its least share of the picture."""
MaskExplainer = Callable[[int, Tensor, int], list[tuple[str, Tensor]]]
"""(image id, box in xyxy pixels, label) to titled maps [h, w] of the nearest detection."""


class Gallery:
    """Failures of one or two models on the same images, the worst of each type first.

    `images`: folder of the pictures by the ground truth's file names, or a VOC devkit.
    `mask_explainers`: by model title, for those with a model at hand.

    Raises:
        ValueError: an image of the ground truth has no file_name.
        FileNotFoundError: none of the pictures is in the folder.
    """

    def __init__(
        self,
        analyses: dict[str, Analysis],
        images: str | Path,
        mask_explainers: dict[str, MaskExplainer] | None = None,
    ):
        self.analyses, self.mask_explainers = analyses, mask_explainers or {}
        self.folder = picture_folder(images)
        first = next(iter(analyses.values())).dataset_eval
        for image in first.images:
            if not (isinstance(image.get("file_name"), str) and image["file_name"]):
                raise ValueError(f"image {image['id']} of the ground truth has no file_name")
        self.images = {image["id"]: image for image in first.images}
        if missing := [p for p in map(self.path, self.images) if not os.path.isfile(p)]:
            problem = f"{len(missing)} of {len(self.images)} pictures, such as {missing[0].name}"
            if len(missing) == len(self.images):
                raise FileNotFoundError(f"{problem}, are missing: {self.folder} must hold them")
            print(f"{self.folder} lacks {problem}", file=sys.stderr)
        self.names = {c["id"]: c["name"] for c in first.categories}
        self.annotations = first.annotations
        self.objects = {image_id: [] for image_id in self.images}
        for index, annotation in enumerate(self.annotations):
            self.objects[annotation["image_id"]].append(index)
        self.detections, tables = {}, []  # by model and image: indices
        for title, analysis in analyses.items():
            evals = analysis.at_threshold.dataset_eval
            ids = [evals.images[e.image]["id"] for e in evals.image_evals]
            indices = [e.detections["detection"].tolist() for e in evals.image_evals]
            self.detections[title] = dict(zip(ids, indices, strict=True))
            cases = analysis.cases
            shown = cases["type"].isin(CASE_TYPES) & (cases["family"] != "TIDE, boxes")
            cases, others = cases[shown].copy(), [name for name in analyses if name != title]
            cases.insert(0, "model", title)
            cases["only this model"] = self._correct(others[0], cases) if others else False
            tables.append(cases)
        self.cases = pd.concat(tables, ignore_index=True)

    def _correct(self, title: str, cases: pd.DataFrame) -> np.ndarray:
        """Per case of another model: does this one detect the object, or have no error there?"""
        tables = self.analyses[title].at_threshold
        boxes = {image_id: [] for image_id in self.images}
        states = tables.objects.set_index("annotation")["state"]
        correct = cases["annotation"].map(states) == DETECTED
        background = tables.detections["error_mask"] == BACKGROUND_ERROR
        for index in tables.detections["detection"][background]:
            detection = tables.dataset_eval.detections[index]
            boxes[detection["image_id"]].append(bbox_xywh(detection))
        for row, case in cases[cases["type"] == ERRORS[BACKGROUND_ERROR]].iterrows():
            box = bbox_xywh(self.entry(case))
            correct[row] = not any(boxes_overlap(box, other) for other in boxes[case["image_id"]])
        return correct.to_numpy()

    def name(self, image_id: int) -> str:
        """The picture's file name without its ending."""
        return without_ending(Path(self.images[image_id]["file_name"]).name)

    def path(self, image_id: int) -> Path:
        """The picture's file; for a path of another machine, that of its last part."""
        name = self.images[image_id]["file_name"]
        slashes = name.replace("\\", "/")
        paths = [self.folder / n for n in (name, slashes, Path(slashes).name)]
        return next(filter(os.path.isfile, paths), paths[-1])  # False for a name that is too long

    def picture(self, image_id: int) -> np.ndarray:
        """RGB, uint8 [h, w, 3], turned as the ground truth is: as it is shown, or as it is stored.

        Raises FileNotFoundError, and ValueError if it is not a picture of the ground truth's size.
        """
        image, path = self.images[image_id], self.path(image_id)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path} is missing")
        try:
            size = image["height"], image["width"]
            return read_fitting(path, size, lambda: self._is_as_stored)
        except BadFile as error:
            raise ValueError(str(error)) from None

    @cached_property
    def _is_as_stored(self) -> bool:
        images = self.images.items()
        return fit_as_stored(
            (self.path(k), lambda i=i: (i["height"], i["width"])) for k, i in images
        )

    def window(self, case: pd.Series, scale: float = WINDOW_SCALE) -> tuple[int, int, int, int]:
        """Part of the picture around a case (xyxy pixels), in the picture's proportions."""
        image, (x, y, w, h) = self.images[case["image_id"]], bbox_xywh(self.entry(case))
        width, height = image["width"], image["height"]
        share = min(1.0, max(scale * max(w / width, h / height), MIN_WINDOW))
        sides = round(share * width), round(share * height)
        x1 = round(min(max(0, x + w / 2 - sides[0] / 2), width - sides[0]))
        y1 = round(min(max(0, y + h / 2 - sides[1] / 2), height - sides[1]))
        return x1, y1, x1 + sides[0], y1 + sides[1]

    def select(self, **values: object) -> pd.DataFrame:
        """Cases by values of columns, such as `type="leakage"`, the worst first."""
        kept = np.ones(len(self.cases), dtype=bool)
        for column, value in values.items():
            kept &= (self.cases[column] == value).to_numpy()
        return self.cases[kept].sort_values("severity", ascending=False, kind="stable")

    def sentence(self, case: pd.Series) -> str:
        """What went wrong, with the numbers."""
        return explain_failure(self.analyses[case["model"]], case)

    def entry(self, case: pd.Series) -> dict:
        """The case's detection, else its object."""
        detections = self.analyses[case["model"]].dataset_eval.detections
        if case["detection"] >= 0:
            return detections[case["detection"]]
        return self.annotations[case["annotation"]]

    def ground_truth_layers(self, case: pd.Series) -> list[Layer]:
        """The objects of the image, those of the case as target."""
        targets = case["annotation"], *self.covered_objects(case)
        objects = self.objects[case["image_id"]]
        roles = ["target" if index in targets else "other" for index in objects]
        return [self._layer(self.annotations[i], r) for i, r in zip(objects, roles, strict=True)]

    def covered_objects(self, case: pd.Series) -> list[int]:
        """The annotations that the mask of a localization failure covers."""
        if case["type"] != MASK_FAILURES[0]:
            return []
        detections = self.analyses[case["model"]].at_threshold.detections
        return list(detections["covered_objects"][case["table_row"]])

    def detection_layers(self, case: pd.Series, title: str) -> list[Layer]:
        """A model's detections around a case, then the case's own, or the missed object."""
        detections, own = self.analyses[title].dataset_eval.detections, title == case["model"]
        indices, box = self.detections[title][case["image_id"]], bbox_xywh(self.entry(case))
        near = [i for i in indices if boxes_overlap(box, bbox_xywh(detections[i]))]
        layers = []
        for rank, index in enumerate(near):
            is_error = own and bool(index == case["detection"])
            if rank < MAX_NEIGHBORS or is_error:
                layers.append(self._layer(detections[index], "error" if is_error else "other"))
            if is_error and UNCROPPED in detections[index]:
                mask = decode_rle([detections[index][UNCROPPED]])[0]
                layers.append(Layer(mask, None, ROLE_COLORS["error"], "", False, dotted=True))
        if case["annotation"] >= 0:
            text = f"missed {case['class']}" if own and case["detection"] < 0 else ""
            layer = self._layer(self.annotations[case["annotation"]], "missed")
            layers.append(layer._replace(text=text, dotted=True))
        return sorted(layers, key=lambda layer: layer.strong)

    def _layer(self, entry: dict, role: str) -> Layer:
        text = self.names[entry["category_id"]]
        text += f" {entry['score']:.2f}" if "score" in entry else ""
        mask, strong = decode_rle([entry["segmentation"]])[0], role in ("error", "target")
        return Layer(mask, bbox_xywh(entry), ROLE_COLORS[role], text, strong)

    def mask_terms(self, case: pd.Series) -> list[tuple[str, Tensor]]:
        """Titled maps [h, w] of how the models at hand got to their nearest detection."""
        entry = self.entry(case)
        x, y, w, h = bbox_xywh(entry)
        query = case["image_id"], torch.tensor([x, y, x + w, y + h]), entry["category_id"]
        return [
            (f"{title}: {name}", values)
            for title, explainer in self.mask_explainers.items()
            for name, values in explainer(*query)
        ]

    def draw(self, case: pd.Series) -> Figure:
        """One case: sentence, picture, ground truth and models; below them the mask terms."""
        terms = self.mask_terms(case)
        heights = [self._row_height(case), *([1.7] if terms else [])]
        figure = plt.figure(figsize=(style.MAX_WIDTH, sum(heights)), layout="constrained")
        rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        self._draw_row(case, rows[0])
        axes = rows[-1].subplots(1, len(terms)) if terms else ()
        for ax, (name, values) in zip(np.ravel(axes), terms, strict=True):
            ax.imshow(values.cpu().numpy(), cmap="cividis")
            lines = (textwrap.fill(line, 18) for line in name.split(": ", 1))
            ax.set_title(":\n".join(lines), fontsize=6.5)
            ax.axis("off")
        show_as_written(figure)
        return figure

    def sheet(self, kind: str, count: int = 3) -> Figure:
        """Contact sheet: the worst cases of a type, one row each, each on another image."""
        cases = self.select(type=kind).drop_duplicates("image_id")
        rank = cases.groupby("model").cumcount()  # models take turns
        cases = cases.loc[rank.sort_values(kind="stable").index[:count]]
        heights = [self._row_height(case) for _, case in cases.iterrows()] or [1.0]
        size = style.MAX_WIDTH, 0.5 + sum(heights)
        figure = plt.figure(figsize=size, layout="constrained")
        rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for row, (_, case) in zip(rows, cases.iterrows(), strict=False):
            self._draw_row(case, row)
        counts = [f"{title} {len(self.select(type=kind, model=title))}" for title in self.analyses]
        reading = f"Cases on these images: {', '.join(counts)}."
        return add_suptitle(figure, f"{kind}: the worst {len(cases)}", reading)

    def side_by_side(self, case: pd.Series, score: float = DRAWN_SCORE) -> Figure:
        """Image, ground truth and all detections around a case from a score on, a color each."""
        image_id = case["image_id"]
        objects = [self.annotations[i] for i in self.objects[image_id]]
        panels = [("image", []), (f"ground truth: {len(objects)}", objects)]
        for title, analysis in self.analyses.items():
            entries = analysis.dataset_eval.detections
            entries = [entries[index] for index in self.detections[title][image_id]]
            entries = [entry for entry in entries if entry["score"] >= score]
            panels.append((f"{short(title, 24)}: {len(entries)}", entries))
        picture, (x1, y1, x2, y2) = self.picture(image_id), self.window(case, 1.25)
        width = style.MAX_WIDTH / len(panels)
        height = min(1.5, (y2 - y1) / (x2 - x1)) * width
        axes = new_axes(len(panels), len(panels), (width, height + 0.75))
        for ax, (title, entries) in zip(axes, panels, strict=True):
            layers = [self._layer(entry, "target") for entry in entries]
            layers = [layer._replace(color=COLORS[k % 7]) for k, layer in enumerate(layers)]
            draw_layers(picture, layers[::-1], ax).set_title(title, fontsize=9)
            ax.set(xlim=(x1 - 0.5, x2 - 0.5), ylim=(y2 - 0.5, y1 - 0.5))
        title = f"{case['type']}: {short(case['model'])}"
        return add_suptitle(axes[0].figure, title, self.sentence(case))

    def _row_height(self, case: pd.Series) -> float:
        """Inches of a case's panels, at most 1.5 times as high as wide, and of its sentence."""
        image = self.images[case["image_id"]]
        ratio = min(1.5, image["height"] / image["width"])
        return 0.9 + ratio * style.MAX_WIDTH / (2 + len(self.analyses))

    def _draw_row(self, case: pd.Series, row: SubFigure) -> None:
        """Picture, ground truth and models, side by side, with the sentence above."""
        image, (x1, y1, x2, y2) = self.images[case["image_id"]], self.window(case)
        only = " (only this model)" if case["only this model"] else ""
        title = f"{case['type']}: {short(case['model'])}{only}, {short(self.name(image['id']))}"
        text = textwrap.fill(self.sentence(case), 130, max_lines=4, placeholder=" …")
        row.suptitle(f"{title}\n{text}", x=0.01, ha="left", fontsize=8.5)
        try:
            picture, note = self.picture(case["image_id"]), "image"
        except (OSError, ValueError) as error:
            picture = np.full((image["height"], image["width"], 3), 200, np.uint8)
            note = textwrap.fill(str(error), 30)
        panels = [(note, []), ("ground truth", self.ground_truth_layers(case))]
        panels += [
            (short(title, 32), self.detection_layers(case, title)) for title in self.analyses
        ]
        axes = row.subplots(1, len(panels))
        for ax, (name, layers) in zip(axes, panels, strict=True):
            draw_layers(picture, layers, ax).set_title(name, fontsize=8)
        for ax in axes[1:]:
            ax.set(xlim=(x1 - 0.5, x2 - 0.5), ylim=(y2 - 0.5, y1 - 0.5))
        style = {"fill": False, "edgecolor": "white", "linestyle": "--"}
        axes[0].add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
