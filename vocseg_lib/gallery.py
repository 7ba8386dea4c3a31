"""The models' failures on the pictures themselves, side by side."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vocseg_lib import plots, voc
from vocseg_lib.failures import FAILURE_TYPES
from vocseg_lib.masks import decode_rle


class Gallery:
    """Draws a picture of a split with its ground truth and each model's detections, failures marked.

    `detections` and `failures` map a model's title to its COCO results and to `find_failures`' table of them, made with
    the same `score_threshold`.
    """

    def __init__(
        self,
        devkit: str | Path,
        ground_truth: dict,
        detections: dict[str, list[dict]],
        failures: dict[str, pd.DataFrame],
        score_threshold: float,
    ):
        self.devkit = voc.find_devkit(devkit)
        self.ground_truth, self.detections, self.failures = ground_truth, detections, failures
        self.score_threshold = score_threshold
        self._files = {image["id"]: image["file_name"] for image in ground_truth["images"]}

    def name(self, image_id: int) -> str:
        """The picture's name in the split list."""
        return Path(self._files[image_id]).stem

    def images_by_type(self) -> dict[str, list[int]]:
        """For each failure type, the ids of the images that show it, most cases first."""
        rows = pd.concat(self.failures.values())
        counts = rows.groupby(["type", "image_id"]).size().sort_values(ascending=False, kind="stable")
        return {kind: counts[kind].index.tolist() if kind in counts else [] for kind in FAILURE_TYPES}

    def draw(self, image_id: int, kind: str | None = None) -> Figure:
        """Ground truth and every model on one picture. With `kind`, only failures of that type are marked."""
        image = voc.read_sample(self.devkit, self.name(image_id)).image
        truth = [a for a in self.ground_truth["annotations"] if a["image_id"] == image_id]
        panels = {"ground truth": self._panel(truth)}
        summaries = []
        for title, found in self.detections.items():
            rows = self.failures[title]
            rows = rows[(rows["image_id"] == image_id) & ((rows["type"] == kind) if kind else True)]
            kinds = rows.set_index("detection")["type"].to_dict()
            shown = [(i, d) for i, d in enumerate(found) if d["image_id"] == image_id and d["score"] >= self.score_threshold]
            notes = [f" {kinds[i]}" if i in kinds else "" for i, _ in shown]
            panels[title] = {**self._panel([d for _, d in shown]), "notes": notes}
            counts = ", ".join(f"{count} {name}" for name, count in rows["type"].value_counts().items())
            summaries.append(f"{title}: {counts or 'none'}")
        title = f"{self.name(image_id)}: {kind or 'failures'}"
        axes = plots.side_by_side(image, panels, title, "; ".join(summaries) + ". Dashed: missed.")
        for ax, name in zip(axes[1:], self.detections, strict=True):
            self._mark_missed(ax, name, image_id, kind)
        return axes[0].figure

    def _panel(self, entries: list[dict]) -> dict:
        boxes = np.array([e["bbox"] for e in entries], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        panel = {"masks": decode_rle([e["segmentation"] for e in entries]), "boxes": boxes}
        panel["labels"] = [e["category_id"] for e in entries]
        if entries and "score" in entries[0]:
            panel["scores"] = [e["score"] for e in entries]
        return panel

    def _mark_missed(self, ax: Axes, title: str, image_id: int, kind: str | None) -> None:
        """A dashed box around each object that this model missed."""
        rows = self.failures[title]
        if kind not in (None, "missed"):
            return
        for index in rows[(rows["image_id"] == image_id) & (rows["type"] == "missed")]["annotation"]:
            annotation = self.ground_truth["annotations"][index]
            x, y, width, height = annotation["bbox"]
            style = {"fill": False, "edgecolor": "white", "linestyle": "--", "linewidth": 1.5}
            ax.add_patch(Rectangle((x, y), width, height, **style))
            name = plots.CLASS_NAMES[annotation["category_id"] - 1]
            style = {"fontsize": 7, "color": "black", "va": "bottom", "clip_on": True}
            ax.text(x, y + height, f"missed {name}", bbox={"facecolor": "white", "pad": 1}, **style)
