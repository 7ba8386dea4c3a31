"""Classify proposals one by one: classical ML with features made by hand, and R-CNN with those of a network."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.ops import batched_nms
from tqdm import tqdm

from vocseg_lib.data.transforms import model_input
from vocseg_lib.models.lineage.proposals import assign_ground_truth, to_uint8_hwc
from vocseg_lib.utils.boxes import decode_boxes, encode_boxes

POSITIVE, NEGATIVE = 0.6, 0.3
"""IoU with an object from which a proposal is taught as it, and below which as background (R-CNN paper, appendix B and C)."""
MARGIN = 4.0
"""An SVM's scores are sigmoid(4 x distance): 0.02 and 0.98 on its margins."""
VARIANCE = 0.8
"""Share of the features' variance that is kept for classifiers that want few of them."""
CLASSIFIERS: dict[str, Callable[[int], BaseEstimator]] = {
    "linear SVM": lambda seed: LinearSVC(C=0.1, class_weight="balanced", random_state=seed),
    "logistic regression": lambda seed: LogisticRegression(
        C=1.0, class_weight="balanced", max_iter=300
    ),
    "k nearest neighbours": lambda seed: make_pipeline(
        PCA(VARIANCE), KNeighborsClassifier(5, weights="distance")
    ),
    "random forest": lambda seed: RandomForestClassifier(
        100, class_weight="balanced", random_state=seed
    ),
    "gradient boosting": lambda seed: make_pipeline(
        PCA(VARIANCE),
        HistGradientBoostingClassifier(max_iter=50, early_stopping=False, random_state=seed),
    ),
}
"""scikit-learn's, from a seed."""


class RegionDetector(nn.Module):
    """Proposals, features of each, a classifier, non-maximum suppression. Eval only: `model(images)`, without masks.

    `proposals(image)` gives boxes [p, 4] (xyxy pixels), `features.of(picture, boxes)` a row a region, `classifier` is
    scikit-learn's. With `regress`, a ridge regression a class moves the boxes (R-CNN paper, appendix C). `fit` teaches it.
    """

    def __init__(
        self,
        proposals: Callable[[Tensor], Tensor],
        features: object,
        classifier: BaseEstimator,
        num_classes: int,
        regress: bool = False,
        score_threshold: float = 0.05,
        nms_iou: float = 0.3,
        max_detections: int = 100,
    ):
        super().__init__()
        self.proposals, self.features, self.classifier, self.num_classes = (
            proposals,
            features,
            classifier,
            num_classes,
        )
        self.regressors: dict[int, Ridge] | None = {} if regress else None
        self.score_threshold, self.nms_iou, self.max_detections = (
            score_threshold,
            nms_iou,
            max_detections,
        )

    def fit(
        self,
        dataset: Dataset,
        negatives: int = 12,
        mined: int = 12,
        seed: int = 0,
        progress: bool = True,
    ) -> dict:
        """Learn from a data set of (image, target): draw negatives, classify, mine hard negatives once, classify, regress.

        Up to so many `negatives` an image are drawn, and as many hard ones `mined`. Returns counts: positives, negatives,
        mined, images without proposals and classes (labels) without an object, of which nothing was learned, and images that the
        data set passed over.
        Raises ValueError when there is no object at all, or nothing beside objects.
        """
        random, rows, regions = np.random.default_rng(seed), [], []
        bare, passed_over, seen = 0, 0, np.zeros(self.num_classes, dtype=bool)
        for i in tqdm(range(len(dataset)), "features", unit="image", disable=not progress):
            image, target = dataset[i]
            image = model_input(image)
            proposed = self.proposals(image)
            bare += not len(proposed)
            passed_over += len(target.get("bad_samples", ()))
            boxes = torch.cat([target["boxes"].as_subclass(Tensor).float(), proposed])
            iou, labels, about = assign_ground_truth(boxes, target)
            seen[target["labels"].numpy()] = True
            label = torch.where(iou >= POSITIVE, labels, torch.where(iou < NEGATIVE, 0, -1)).numpy()
            found = self.features.of(to_uint8_hwc(image), boxes.numpy())
            drawn = random.permutation(np.flatnonzero(label == 0))
            rows.append(
                (
                    found,
                    label,
                    np.concatenate([np.flatnonzero(label > 0), drawn[:negatives]]),
                    drawn[negatives:],
                )
            )
            if self.regressors is not None:
                moved = encode_boxes(about[label > 0], _centred(boxes[label > 0])).numpy()
                regions.append(moved)
        x = np.concatenate([found[taught] for found, _, taught, _ in rows])
        y = np.concatenate([label[taught] for _, label, taught, _ in rows])
        if not (y > 0).any() or (y > 0).all():
            raise ValueError(
                "these images have no object to learn from"
                if not (y > 0).any()
                else "there is nothing beside objects"
            )
        self.classifier.fit(x, y)
        hard = []
        for found, _, _, spare in rows:
            wrong = self._probabilities(found[spare])[:, 1:].max(1) if len(spare) else np.zeros(0)
            hard.append(found[spare[np.argsort(-wrong, kind="stable")[:mined]]])
        hard = np.concatenate(hard)
        self.classifier.fit(
            np.concatenate([x, hard]), np.concatenate([y, np.zeros(len(hard), dtype=y.dtype)])
        )
        if self.regressors is not None:
            moved = np.concatenate(regions)
            self.regressors = {
                k: Ridge(1.0).fit(x[y == k], moved[y[y > 0] == k])
                for k in np.unique(y[y > 0]).tolist()
            }
        lacking = [int(k) for k in range(1, self.num_classes) if not seen[k]]
        counts = {
            "positives": int((y > 0).sum()),
            "negatives": int((y == 0).sum()),
            "mined": len(hard),
        }
        bare = {"images_without_proposals": int(bare), "images_passed_over": passed_over}
        return {**counts, **bare, "classes_without_objects": lacking}

    def forward(self, images: list[Tensor], targets: list[dict] | None = None) -> list[dict]:
        return self.postprocess(self.network(images))

    @torch.inference_mode()
    def network(self, images: list[Tensor]) -> list[dict]:
        """Proposals of each image, their features and a score for each class."""
        out = []
        for image in images:
            boxes = self.proposals(image)
            found = self.features.of(to_uint8_hwc(image), boxes.numpy())
            scores = self._probabilities(found) if len(boxes) else np.zeros((0, self.num_classes))
            out.append(
                {
                    "boxes": boxes,
                    "features": found,
                    "scores": torch.from_numpy(scores).float(),
                    "size": image.shape[-2:],
                }
            )
        return out

    def postprocess(self, out: list[dict]) -> list[dict]:
        """The best boxes of each image: boxes, labels, scores."""
        results = []
        for of_image in out:
            region, label = (of_image["scores"][:, 1:] > self.score_threshold).nonzero(
                as_tuple=True
            )
            label, height, width = label + 1, *of_image["size"]
            boxes, scores = self._moved(of_image, region, label), of_image["scores"][region, label]
            boxes = boxes.clamp(min=0).minimum(
                torch.tensor([width, height, width, height], dtype=boxes.dtype)
            )
            kept = batched_nms(boxes, scores, label, self.nms_iou)[: self.max_detections]
            results.append({"boxes": boxes[kept], "labels": label[kept], "scores": scores[kept]})
        return results

    def _moved(
        self, of_image: dict, region: Int[Tensor, " n"], label: Int[Tensor, " n"]
    ) -> Float[Tensor, "n 4"]:
        boxes = of_image["boxes"][region].float()
        for k in label.unique().tolist() if self.regressors else []:
            mine = label == k
            rows = of_image["features"][region[mine].numpy()]
            offsets = torch.from_numpy(self.regressors[k].predict(rows)).to(boxes)
            boxes[mine] = decode_boxes(offsets, _centred(boxes[mine]))
        return boxes

    def _probabilities(self, features: Float[np.ndarray, "p f"]) -> Float[np.ndarray, "p c"]:
        """A score for each class, 0 for those that were not learned."""
        if hasattr(self.classifier, "predict_proba"):
            known = self.classifier.predict_proba(features)
        else:
            known = expit(MARGIN * self.classifier.decision_function(features))
            known = np.stack([1 - known, known], 1) if known.ndim == 1 else known
        scores = np.zeros((len(features), self.num_classes))
        scores[:, self.classifier.classes_] = known
        return scores


def _centred(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, size], 1)
