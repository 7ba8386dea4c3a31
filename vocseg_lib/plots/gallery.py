"""The models' failures on the pictures themselves: the worst cases of each type, side by side."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from vocseg_lib.data.coco import UNCROPPED, bbox_xywh
from vocseg_lib.data.voc import find_devkit
from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.explain import explain_failure
from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import CASE_TYPES, DETECTED
from vocseg_lib.failures.tide import BACKGROUND, ERRORS
from vocseg_lib.plots.images import Layer, draw_layers
from vocseg_lib.plots.style import COLORS, add_figure_title, new_axes
from vocseg_lib.utils.files import resolve_path
from vocseg_lib.utils.rle import decode_rle

BLAMED, TARGET, OTHERS, LOST = COLORS[1], COLORS[2], COLORS[5], COLORS[6]
"""Colours of the detection that a case is about, of the object that it should have been, of all others, of missed objects."""
NEIGHBOURS = 6
"""Detections near a case that are drawn, the best ones."""
SHOWN, LEAST_SHOWN = 2.0, 0.4
"""How much of a picture is shown around a case: in sides of its box, and of the picture."""
Inside = Callable[[int, Tensor, int], list[tuple[str, Tensor]]]
"""For an image id, a box (xyxy pixels) and a label: titled maps [h, w] of how a model got to its nearest detection."""


class Gallery:
    """Cases of failure of one or two models on the same images, the worst of each type first.

    `images` is a folder that holds the pictures by the ground truth's file names, or a VOC devkit. `insides` maps titles of
    models to how they got to a detection (see `Inside`), where that can be shown.
    """

    def __init__(
        self,
        analyses: dict[str, Analysis],
        images: str | Path,
        insides: dict[str, Inside] | None = None,
    ):
        self.analyses, self.insides = analyses, insides or {}
        folder = resolve_path(images)
        self.folder = (
            folder
            if folder.is_dir() and not _is_devkit(folder)
            else find_devkit(folder) / "JPEGImages"
        )
        first = next(iter(analyses.values())).dataset_eval
        self.images = {image["id"]: image for image in first.images}
        for image in first.images:
            if not isinstance(image.get("file_name"), str):
                raise ValueError(
                    f"image {image['id']} of the ground truth has no file_name: its picture cannot be found"
                )
        self.names = {c["id"]: c["name"] for c in first.categories}
        self.objects = {image_id: [] for image_id in self.images}
        for place, annotation in enumerate(first.annotations):
            self.objects[annotation["image_id"]].append(place)
        self.found = {title: self._found(analysis) for title, analysis in analyses.items()}
        self.cases = pd.concat([self._cases_of(title) for title in analyses], ignore_index=True)

    def _found(self, analysis: Analysis) -> dict[int, list[int]]:
        """Detections that count, by image, best first."""
        found = {image_id: [] for image_id in self.images}
        for image_eval in analysis.at_threshold.dataset_eval.image_evals:
            found[analysis.dataset_eval.images[image_eval.image]["id"]] = (
                image_eval.detections.tolist()
            )
        return found

    def _cases_of(self, title: str) -> pd.DataFrame:
        analysis = self.analyses[title]
        cases = analysis.cases
        cases = cases[cases["type"].isin(CASE_TYPES) & (cases["family"] != "TIDE, boxes")].copy()
        cases.insert(0, "model", title)
        others = [name for name in self.analyses if name != title]
        cases["only this model"] = self._right_about(others[0], cases) if others else False
        return cases

    def _right_about(self, other: str, cases: pd.DataFrame) -> np.ndarray:
        """Whether another model has found the object, or has no detection of nothing at all there."""
        facts = self.analyses[other].at_threshold
        states = facts.objects.set_index("annotation")["state"]
        found = cases["annotation"].map(states) == DETECTED
        rows = facts.detections[facts.detections["error_mask"] == BACKGROUND]
        false_alarms = {place: np.array(part["detection"]) for place, part in rows.groupby("image")}
        images = {
            image["id"]: place
            for place, image in enumerate(self.analyses[other].dataset_eval.images)
        }
        theirs, ours = (
            self.analyses[name].dataset_eval.detections
            for name in (other, cases["model"].iat[0] if len(cases) else other)
        )
        for row in np.flatnonzero(cases["type"] == ERRORS[BACKGROUND]):
            alarms = false_alarms.get(images[cases["image_id"].iat[row]], ())
            box = bbox_xywh(ours[cases["detection"].iat[row]])
            found.iat[row] = not any(_meet(box, bbox_xywh(theirs[i])) for i in alarms)
        return found.to_numpy()

    def name(self, image_id: int) -> str:
        """The picture's file name without its ending."""
        return Path(self.images[image_id]["file_name"]).stem

    def picture(self, image_id: int) -> np.ndarray:
        """RGB, uint8 [h, w, 3]. Raises FileNotFoundError or ValueError, naming the file."""
        path = self.folder / self.images[image_id]["file_name"]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{path} cannot be read as a picture: {error}") from None
        size = (self.images[image_id]["height"], self.images[image_id]["width"])
        if pixels.shape[:2] != size:
            raise ValueError(
                f"{path} has {pixels.shape[:2]} (height, width), the ground truth says {size}: it is another picture"
            )
        return pixels

    def window(self, case: pd.Series, sides_of_box: float = SHOWN) -> tuple[int, int, int, int]:
        """What is shown of the picture around a case: xyxy pixels, of its proportions, at least so many sides of its box."""
        image, (x, y, w, h) = self.images[case["image_id"]], bbox_xywh(self.entry(case))
        width, height = image["width"], image["height"]
        share = min(1.0, max(sides_of_box * max(w / width, h / height), LEAST_SHOWN))
        sides = round(share * width), round(share * height)
        corner = (x + w / 2 - sides[0] / 2, y + h / 2 - sides[1] / 2)
        x1, y1 = (
            round(min(max(0, at), all_of - side))
            for at, side, all_of in zip(corner, sides, (width, height), strict=True)
        )
        return x1, y1, x1 + sides[0], y1 + sides[1]

    def select(self, **wanted: object) -> pd.DataFrame:
        """Cases with the given values of columns (`type="leakage"`, `model=...`, `**{"only this model": True}`), worst first."""
        kept = np.ones(len(self.cases), dtype=bool)
        for column, value in wanted.items():
            kept &= (self.cases[column] == value).to_numpy()
        return self.cases[kept].sort_values("severity", ascending=False, kind="stable")

    def sentence(self, case: pd.Series) -> str:
        """What went wrong, with the numbers."""
        return explain_failure(self.analyses[case["model"]], case)

    def entry(self, case: pd.Series) -> dict:
        """The detection that a case is about, else the object."""
        dataset_eval = self.analyses[case["model"]].dataset_eval
        return (
            dataset_eval.detections[case["detection"]]
            if case["detection"] >= 0
            else dataset_eval.annotations[case["annotation"]]
        )

    def truth_layers(self, case: pd.Series) -> list[Layer]:
        """The objects of the image, the one that the case is about in its own colour."""
        annotations = next(iter(self.analyses.values())).dataset_eval.annotations
        layers = []
        for place in self.objects[case["image_id"]]:
            entry = annotations[place]
            blamed = place in (case["annotation"], *self.covered_objects(case))
            layers.append(self._layer(entry, TARGET if blamed else OTHERS, blamed))
        return layers

    def covered_objects(self, case: pd.Series) -> list[int]:
        """The annotations that the mask of a localization failure unites."""
        if case["type"] != MASK_FAILURES[0]:
            return []
        analysis = self.analyses[case["model"]]
        row = analysis.at_threshold.detections.loc[case["table_row"]]
        return (
            analysis.dataset_eval.image_evals[row["image"]]
            .objects[list(row["covered_objects"])]
            .tolist()
        )

    def found_layers(self, case: pd.Series, title: str) -> list[Layer]:
        """What a model found where a case is: neighbors, then what is to blame, or what was missed."""
        analysis, layers, box = self.analyses[title], [], bbox_xywh(self.entry(case))
        there = [
            i
            for i in self.found[title][case["image_id"]]
            if _meet(box, bbox_xywh(analysis.dataset_eval.detections[i]))
        ]
        for rank, place in enumerate(there):
            blamed = title == case["model"] and bool(place == case["detection"])
            if rank >= NEIGHBOURS and not blamed:
                continue
            entry = analysis.dataset_eval.detections[place]
            layers.append(self._layer(entry, BLAMED if blamed else OTHERS, blamed))
            if blamed and UNCROPPED in entry:
                layers.append(
                    Layer(decode_rle([entry[UNCROPPED]])[0], None, BLAMED, "", False, dotted=True)
                )
        if case["annotation"] >= 0:
            annotation = analysis.dataset_eval.annotations[case["annotation"]]
            missed = title == case["model"] and case["detection"] < 0
            layer = self._layer(annotation, LOST, False)
            layers.append(
                layer._replace(text=f"missed {case['class']}" if missed else "", dotted=True)
            )
        return sorted(layers, key=lambda layer: layer.strong)

    def _layer(self, entry: dict, colour: str, strong: bool) -> Layer:
        text = self.names[entry["category_id"]] + (
            f" {entry['score']:.2f}" if "score" in entry else ""
        )
        return Layer(decode_rle([entry["segmentation"]])[0], bbox_xywh(entry), colour, text, strong)

    def mask_terms(self, case: pd.Series) -> list[tuple[str, Tensor]]:
        """How each model whose inside is known got to its nearest detection, as titled maps [h, w]."""
        entry = self.entry(case)
        x, y, w, h = bbox_xywh(entry)
        box, label = torch.tensor([x, y, x + w, y + h]), entry["category_id"]
        found = []
        for title, inside in self.insides.items():
            found += [
                (f"{title}: {name}", values)
                for name, values in inside(case["image_id"], box, label)
            ]
        return found

    def draw(self, case: pd.Series) -> Figure:
        """One case: picture, ground truth, both models, below them what is known of their insides; the sentence as title."""
        parts = self.mask_terms(case)
        panels = 2 + len(self.analyses)
        figure = plt.figure(figsize=(3.4 * panels, 3.9 + 2.0 * bool(parts)), layout="constrained")
        rows = figure.subfigures(
            2 if parts else 1, 1, height_ratios=(1.75, 1) if parts else None, squeeze=False
        )[:, 0]
        self._draw_row(case, rows[0])
        for ax, (name, values) in zip(
            rows[-1].subplots(1, len(parts)) if parts else (), parts, strict=True
        ):
            ax.imshow(values.cpu().numpy(), cmap="cividis")
            ax.set_title(name.replace(": ", ":\n"), fontsize=7)
            ax.axis("off")
        return figure

    def sheet(self, kind: str, count: int = 3) -> Figure:
        """The worst cases of a type, each on another image, a row each: contact sheet."""
        cases, panels = self.select(type=kind).drop_duplicates("image_id"), 2 + len(self.analyses)
        rank = cases.groupby("model").cumcount()  # so that each model comes up
        cases = cases.loc[rank.sort_values(kind="stable").index[:count]]
        figure = plt.figure(
            figsize=(3.0 * panels, 0.5 + 2.9 * max(1, len(cases))), layout="constrained"
        )
        for row, (_, case) in zip(
            figure.subfigures(max(1, len(cases)), 1, squeeze=False)[:, 0],
            cases.iterrows(),
            strict=False,
        ):
            self._draw_row(case, row)
        counts = ", ".join(
            f"{title} {len(self.select(type=kind, model=title))}" for title in self.analyses
        )
        return add_figure_title(
            figure, f"{kind}: the worst {len(cases)}", f"Cases on these images: {counts}."
        )

    def side_by_side(self, case: pd.Series, score: float = 0.3) -> Figure:
        """A case for those in a hurry: image, ground truth and what each model found there from a score on, a colour an object."""
        annotations = next(iter(self.analyses.values())).dataset_eval.annotations
        found = {"ground truth": [annotations[place] for place in self.objects[case["image_id"]]]}
        for title, analysis in self.analyses.items():
            detections = (
                analysis.dataset_eval.detections[place]
                for place in self.found[title][case["image_id"]]
            )
            found[title] = [d for d in detections if d["score"] >= score]
        picture, (x1, y1, x2, y2) = self.picture(case["image_id"]), self.window(case, 1.25)
        height = 3.4 * (y2 - y1) / (x2 - x1)
        axes = new_axes(1 + len(found), 1 + len(found), (3.4, height + 0.75), None)
        draw_layers(picture, [], axes[0]).set_title("image", fontsize=12)
        for ax, (title, entries) in zip(axes[1:], found.items(), strict=True):
            layers = [self._layer(entry, COLORS[k % 7], True) for k, entry in enumerate(entries)]
            draw_layers(picture, layers[::-1], ax).set_title(
                f"{title}: {len(entries)}", fontsize=12
            )
        for ax in axes:
            ax.set(xlim=(x1 - 0.5, x2 - 0.5), ylim=(y2 - 0.5, y1 - 0.5))
        return add_figure_title(
            axes[0].figure, f"{case['type']}: {case['model']}", self.sentence(case)
        )

    def _draw_row(self, case: pd.Series, row: SubFigure) -> None:
        """Picture, ground truth and models, side by side, with the sentence above."""
        alone = ", which only this model" if case["only this model"] else ""
        title = f"{case['type']}: {case['model']}{alone}, on {self.name(case['image_id'])}"
        text = textwrap.fill(self.sentence(case), 45 * (2 + len(self.analyses)))
        row.suptitle(f"{title}\n{text}", x=0.01, ha="left", fontsize=8.5)
        axes, (x1, y1, x2, y2), note = (
            row.subplots(1, 2 + len(self.analyses)),
            self.window(case),
            "image",
        )
        try:
            picture = self.picture(case["image_id"])
        except (OSError, ValueError) as error:
            image = self.images[case["image_id"]]
            picture, note = (
                np.full((image["height"], image["width"], 3), 200, np.uint8),
                textwrap.fill(str(error), 40),
            )
        draw_layers(picture, [], axes[0]).set_title(note, fontsize=8)
        axes[0].add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linestyle="--")
        )
        draw_layers(picture, self.truth_layers(case), axes[1]).set_title("ground truth", fontsize=8)
        for ax, title in zip(axes[2:], self.analyses, strict=True):
            draw_layers(picture, self.found_layers(case, title), ax).set_title(title, fontsize=8)
        for ax in axes[1:]:
            ax.set(xlim=(x1 - 0.5, x2 - 0.5), ylim=(y2 - 0.5, y1 - 0.5))


def _is_devkit(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("JPEGImages", "VOCdevkit", "VOC2012"))


def _meet(first: list[float], second: list[float]) -> bool:
    """Whether two boxes (xywh) have something in common."""
    return all(
        min(first[k] + first[k + 2], second[k] + second[k + 2]) > max(first[k], second[k])
        for k in (0, 1)
    )
