"""Classify proposals one by one, by classical ML: with hand-crafted features, or as R-CNN."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import batched_nms, box_convert
from tqdm import tqdm

from vocseg_lib.data.transforms import model_input
from vocseg_lib.models.contract import InstanceModel
from vocseg_lib.models.lineage.features import Features
from vocseg_lib.models.lineage.proposals import Image, labeled_regions, to_uint8_hwc
from vocseg_lib.utils.boxes import Boxes, decode_boxes, encode_boxes

OBJECT_REGION_IOU, BACKGROUND_REGION_IOU = 0.6, 0.3
"""IoU with an object from which, and below which, a proposal is one (R-CNN paper, app. B, C)."""
NEGATIVES = 12  # most background regions per image: these at random, and as many by score
SVM_SLOPE = 4.0  # an SVM's scores are sigmoid(4 x distance): 0.02 and 0.98 at its margins
MIN_SCORE, NMS_IOU, DETECTIONS_PER_IMAGE = 0.05, 0.3, 100
_BALANCED = {"class_weight": "balanced"}
_BOOSTING = {"max_iter": 50, "early_stopping": False}
CLASSIFIERS: dict[str, Callable[[int], BaseEstimator]] = {
    "linear SVM": lambda seed: LinearSVC(C=0.1, random_state=seed, **_BALANCED),
    "logistic regression": lambda _: LogisticRegression(max_iter=300, **_BALANCED),
    "k nearest neighbors": lambda _: make_pipeline(
        PCA(0.8), KNeighborsClassifier(5, weights="distance")
    ),
    "random forest": lambda seed: RandomForestClassifier(100, random_state=seed, **_BALANCED),
    "gradient boosting": lambda seed: make_pipeline(
        PCA(0.8), HistGradientBoostingClassifier(random_state=seed, **_BOOSTING)
    ),
}
"""scikit-learn's classifiers by name, made from a seed; PCA for those that need few features."""


class RegionDetector(InstanceModel):
    """Proposals, features of each, a classifier and NMS. Eval only; detections without masks.

    `proposals(image)` gives boxes [p, 4], `features(pixels, boxes)` float16 [p, f]. With `regress`,
    a ridge regression per class refines the boxes (R-CNN paper, app. C).
    """

    def __init__(
        self,
        proposals: Callable,
        features: Callable,
        classifier: BaseEstimator,
        num_classes: int,
        regress: bool = False,
    ):
        super().__init__()
        self.proposals, self.features, self.classifier = proposals, features, classifier
        self.num_classes, self.regress = num_classes, regress
        self.regressors: dict[int, Ridge] = {}

    def fit(self, dataset: Dataset, seed: int = 0) -> dict:
        """Fit classifier and regressions to regions of a data set; returns counts.

        Raises ValueError without any object, or without any background region.
        """
        regions, counts = [], {"images_without_proposals": 0, "bad_samples": 0}
        for i in tqdm(range(len(dataset)), "features", unit="image"):
            image, target = dataset[i]
            image = model_input(image)
            proposals = self.proposals(image)
            counts["images_without_proposals"] += not len(proposals)
            counts["bad_samples"] += len(target.get("bad_samples", ()))
            boxes, iou, gt_labels, gt_boxes = labeled_regions(target, proposals)
            background = torch.where(iou < BACKGROUND_REGION_IOU, 0, -1)
            labels = torch.where(iou >= OBJECT_REGION_IOU, gt_labels, background)
            offsets = encode_boxes(gt_boxes, box_convert(boxes, "xyxy", "cxcywh"))
            numbers = labels.numpy(), offsets.numpy(), np.full(len(boxes), i)
            regions.append((self._features(image, boxes), *numbers))
        x, y, offsets, images = (np.concatenate(part) for part in zip(*regions, strict=True))
        positive, background = y > 0, y == 0
        if not (positive.any() and background.any()):
            lacking = "region of background" if positive.any() else "object"
            raise ValueError(f"these images have no {lacking} to learn from")
        # Fit objects against random background, then also against that of highest score (hard).
        sampled, counts["positives"] = positive, int(positive.sum())
        order = np.random.default_rng(seed).random(len(y))
        for name in ("negatives", "hard"):
            if name == "hard":
                order = -self._scores(x)[:, 1:].max(1)
            rest = background & ~sampled
            ranks = pd.Series(np.where(rest, order, np.inf)).groupby(images).rank(method="first")
            first = rest & (ranks.to_numpy() <= NEGATIVES)
            sampled, counts[name] = sampled | first, int(first.sum())
            self.classifier.fit(x[sampled], y[sampled])
        # Fit offsets from regions to objects.
        labels = np.unique(y[positive]).tolist()
        regressed = labels if self.regress else []
        self.regressors = {k: Ridge(1.0).fit(x[y == k], offsets[y == k]) for k in regressed}
        lacking = sorted({*range(1, self.num_classes)} - {*labels})
        return {**counts, "classes_without_objects": lacking}

    def _features(self, image: Image, boxes: Boxes) -> Features:
        return self.features(to_uint8_hwc(image), boxes.numpy()).astype(np.float32)

    def _scores(self, features: Features) -> Float[np.ndarray, "p c"]:
        """A score per class, 0 for classes without objects in training."""
        if hasattr(self.classifier, "predict_proba"):
            learned = self.classifier.predict_proba(features)
        else:
            learned = expit(SVM_SLOPE * self.classifier.decision_function(features))
            learned = np.stack([1 - learned, learned], 1) if learned.ndim == 1 else learned
        scores = np.zeros((len(features), self.num_classes))
        scores[:, self.classifier.classes_] = learned
        return scores

    @torch.inference_mode()
    def network(self, images: list[Tensor]) -> list[tuple]:
        """Per image: (height, width), proposals, their features and scores [p, c]."""
        out = []
        for image in images:
            boxes = self.proposals(image)
            features = self._features(image, boxes)
            scores = self._scores(features) if len(boxes) else np.zeros((0, self.num_classes))
            out.append((image.shape[-2:], boxes, features, torch.from_numpy(scores).float()))
        return out

    def postprocess(self, out: list[tuple]) -> list[dict]:
        """Boxes, labels and scores of each image, after regression and NMS per class."""
        results = []
        for (height, width), boxes, features, scores in out:
            index, labels = (scores[:, 1:] > MIN_SCORE).nonzero(as_tuple=True)
            labels = labels + 1
            boxes, scores = boxes[index].float(), scores[index, labels]
            regions = box_convert(boxes, "xyxy", "cxcywh")
            for k in labels.unique().tolist() if self.regressors else []:
                of_class = labels == k
                offsets = self.regressors[k].predict(features[index[of_class].numpy()])
                offsets = torch.from_numpy(offsets).to(boxes)
                boxes[of_class] = decode_boxes(offsets, regions[of_class])
            boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height] * 2))
            kept = batched_nms(boxes, scores, labels, NMS_IOU)[:DETECTIONS_PER_IMAGE]
            results.append({"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]})
        return results
