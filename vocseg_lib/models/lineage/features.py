"""What regions look like: features made by hand, and those of a network that each region is warped through."""

import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from skimage.feature import local_binary_pattern
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import roi_align
from torchvision.transforms.v2.functional import normalize
from tqdm import tqdm

from vocseg_lib.data.transforms import IMAGENET_MEAN, IMAGENET_STD, model_input
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.lineage.proposals import DiskCache, assign_ground_truth

REGIONS = 16
CONTEXT = 16
"""Pixels of the warped region that lie around the box (R-CNN paper, sec. 2.1 and appendix A)."""


def whole_pixels(boxes: Float[np.ndarray, "p 4"], height: int, width: int) -> np.ndarray:
    """Boxes as whole pixels (xyxy) of an image, each with one pixel at least."""
    x1, y1, x2, y2 = np.rint(boxes).astype(int).T
    x1, y1 = x1.clip(0, width - 1), y1.clip(0, height - 1)
    return np.stack(
        [x1, y1, np.maximum(x2.clip(0, width), x1 + 1), np.maximum(y2.clip(0, height), y1 + 1)], 1
    )


class HandCraftedFeatures:
    """HOG of the region's shape, histograms of its colours (CIELAB) and of its texture (uniform local binary patterns).

    HOG (Dalal and Triggs 2005) with 8 x 8 cells and blocks of 2 x 2 on the region warped to `side` x `side` pixels. Histograms
    of all regions come from integral images. Each of the three parts has length 1.
    """

    def __init__(self, side: int = 48, bins: int = 8, cache: str | Path | None = None):
        self.side, self.bins = side, bins
        self.hog = cv2.HOGDescriptor((side, side), (16, 16), (8, 8), (8, 8), 9)
        self.cached = DiskCache(self._of, cache, f"by hand {side} {bins}")

    def of(
        self, picture: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "p 4"]
    ) -> Float[np.ndarray, "p f"]:
        """Features of the regions of a picture."""
        return self.cached(picture, boxes).astype(np.float32)

    def _of(self, picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        boxes = whole_pixels(boxes, *picture.shape[:2])
        warped = (
            cv2.resize(picture[y1:y2, x1:x2], (self.side, self.side), interpolation=cv2.INTER_AREA)
            for x1, y1, x2, y2 in boxes
        )
        shape = np.array([self.hog.compute(region) for region in warped], np.float32)
        shape = shape.reshape(len(boxes), self.hog.getDescriptorSize())
        lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB) // (256 // self.bins)
        colours = [self._histograms(lab[..., channel], self.bins, boxes) for channel in range(3)]
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        texture = self._histograms(
            local_binary_pattern(grey, 8, 1, "uniform").astype(int), 10, boxes
        )
        parts = (shape, np.concatenate(colours, 1), texture)
        unit = [
            part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-9) for part in parts
        ]
        return np.concatenate(unit, 1).astype(np.float16)

    @staticmethod
    def _histograms(
        values: np.ndarray, bins: int, boxes: np.ndarray
    ) -> Float[np.ndarray, "p bins"]:
        sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1, bins), np.float32)
        sums[1:, 1:] = (values[..., None] == np.arange(bins)).cumsum(0, dtype=np.float32).cumsum(1)
        x1, y1, x2, y2 = boxes.T
        return sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]


class RCNNFeatures(nn.Module):
    """R-CNN's features (Girshick et al. 2014): each region with some context, warped to a square, through the whole backbone;
    the mean of its last map.

    `side` pixels a square, `at_once` regions a pass. The cache goes by the weights, too.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        weights: str | Path | None = "imagenet",
        side: int = 224,
        at_once: int = 64,
        cache: str | Path | None = None,
    ):
        super().__init__()
        base = build_backbone(backbone, weights)
        self.body = IntermediateLayerGetter(base.body, {base.stages[-1]: "last"})
        self.side, self.at_once, self.cache, self.channels = side, at_once, cache, base.channels[-1]

    def forward(self, regions: Float[Tensor, "p 3 s s"]) -> Float[Tensor, "p f"]:
        return self.body(normalize(regions, IMAGENET_MEAN, IMAGENET_STD))["last"].mean((2, 3))

    def warp(
        self, image: Float[Tensor, "3 h w"], boxes: Float[Tensor, "p 4"]
    ) -> Float[Tensor, "p 3 s s"]:
        """Regions of an image in 0..1, grown so that `CONTEXT` pixels of 224 lie around the box; the mean colour outside."""
        margin = CONTEXT / (224 - 2 * CONTEXT) * (boxes[:, 2:] - boxes[:, :2])
        grown = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1)
        mean = image.new_tensor(IMAGENET_MEAN)[:, None, None]
        return (
            roi_align(
                (image - mean)[None], [grown.to(image)], self.side, sampling_ratio=2, aligned=True
            )
            + mean
        )

    @torch.inference_mode()
    def of(
        self, picture: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "p 4"]
    ) -> Float[np.ndarray, "p f"]:
        """Features of the regions of a picture."""
        if self.cache is None or not DiskCache.remembers:
            return self._of(picture, boxes).astype(np.float32)
        weights = zlib.crc32(
            b"".join(v.cpu().numpy().tobytes() for v in self.state_dict().values())
        )
        return DiskCache(self._of, self.cache, f"warped {self.side} {weights}")(
            picture, boxes
        ).astype(np.float32)

    def _of(self, picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        device = next(self.parameters()).device
        image = torch.from_numpy(picture).to(device).permute(2, 0, 1).float() / 255
        parts = [
            self.eval()(self.warp(image, some))
            for some in torch.from_numpy(boxes).to(device).split(self.at_once)
        ]
        found = torch.cat(parts) if parts else torch.zeros(0, self.channels)
        return found.float().cpu().numpy().astype(np.float16)

    def fine_tune(
        self,
        dataset: Dataset,
        proposals: Callable[[Tensor], Tensor],
        num_classes: int,
        iterations: int,
        learning_rate: float = 1e-4,
        seed: int = 0,
    ) -> None:
        """R-CNN's second stage: learn to name warped regions, a quarter of them objects (IoU at least .5), with a softmax that is
        thrown away afterwards. Two images an iteration, `REGIONS` of each; AdamW with a cosine schedule."""
        random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(self.channels, num_classes)
        device = next(self.parameters()).device
        optimizer = torch.optim.AdamW(
            [*self.parameters(), *head.to(device).parameters()], learning_rate
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        self.train()
        for _ in tqdm(range(iterations), "fine-tune"):
            regions, labels = [], []
            for i in torch.randint(len(dataset), (2,), generator=random).tolist():
                image, target = dataset[i]
                image = model_input(image, device)
                boxes = torch.cat([target["boxes"].as_subclass(Tensor).float(), proposals(image)])
                iou, named, _ = assign_ground_truth(boxes, target)
                named = named * (iou >= 0.5)
                order = torch.randperm(len(boxes), generator=random)
                drawn = torch.cat(
                    [order[named[order] > 0][: REGIONS // 4], order[named[order] == 0]]
                )[:REGIONS]
                regions.append(self.warp(image, boxes[drawn].to(device)))
                labels.append(named[drawn])
            if not sum(map(len, labels)):
                continue
            loss = F.cross_entropy(head(self(torch.cat(regions))), torch.cat(labels).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.eval()
