"""Features of regions: hand-crafted ones, and those of a network (R-CNN)."""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from skimage.feature import local_binary_pattern
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import roi_align
from torchvision.transforms.v2.functional import normalize
from tqdm import tqdm

from vocseg_lib.data.transforms import IMAGENET_MEAN, IMAGENET_STD, model_input
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.lineage.proposals import BoxArray, Image, Pixels, labeled_regions
from vocseg_lib.utils.boxes import Boxes

Features = Float[np.ndarray, "p f"]
HOG_SIDE = 48  # pixels, side of the square that HOG sees of a region
COLOR_BINS, TEXTURE_BINS = 8, 10
FINE_TUNED_REGIONS, REGIONS_PER_PASS = 16, 64
"""Per image in a batch of fine-tuning; per pass through the network without gradients."""
CONTEXT = 16
"""Pixels of a warped region of 224 x 224 around its box (R-CNN paper, sec. 2.1 and appendix A)."""


def whole_pixels(boxes: BoxArray, height: int, width: int) -> Int[np.ndarray, "p 4"]:
    """Boxes rounded to pixels of an image (xyxy), each of at least one pixel."""
    low, high = np.rint(boxes[:, :2]).astype(int), np.rint(boxes[:, 2:]).astype(int)
    low = low.clip(0, (width - 1, height - 1))
    return np.concatenate([low, np.maximum(high.clip(0, (width, height)), low + 1)], 1)


def hand_crafted_features(pixels: Pixels, boxes: BoxArray) -> Features:
    """HOG, color histograms (CIELAB) and texture histograms (uniform local binary patterns).

    HOG (Dalal and Triggs 2005) of regions resized to 48 x 48, with 8 x 8 cells and blocks of
    2 x 2. Each of the three parts has L2 norm 1.
    """
    boxes, size = whole_pixels(boxes, *pixels.shape[:2]), (HOG_SIDE, HOG_SIDE)
    # HOG.
    hog = cv2.HOGDescriptor(size, (16, 16), (8, 8), (8, 8), 9)
    regions = (pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in boxes)
    resized = (cv2.resize(region, size, interpolation=cv2.INTER_AREA) for region in regions)
    shape = np.array([hog.compute(region) for region in resized], np.float32)
    shape = shape.reshape(len(boxes), hog.getDescriptorSize())
    # Histograms.
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB) // (256 // COLOR_BINS)
    colors = _histograms(lab, COLOR_BINS, boxes)
    patterns = local_binary_pattern(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 8, 1, "uniform")
    texture = _histograms(patterns[..., None], TEXTURE_BINS, boxes)
    norm = partial(np.linalg.norm, axis=1, keepdims=True)
    unit = [part / np.maximum(norm(part), 1e-9) for part in (shape, colors, texture)]
    return np.concatenate(unit, 1).astype(np.float16)


def _histograms(values: np.ndarray, bins: int, boxes: np.ndarray) -> np.ndarray:
    """Counts of each channel's values in boxes, by integral images."""
    one_hot = (values[..., None] == np.arange(bins)).astype(np.uint8)
    sums = cv2.integral(one_hot.reshape(*values.shape[:2], -1))
    x1, y1, x2, y2 = boxes.T
    return (sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]).astype(np.float32)


class RCNNFeatures(nn.Module):
    """R-CNN's features (Girshick et al. 2014): each region warped to a square, through a backbone.

    The mean of its last map. Squares have `side` pixels.
    """

    def __init__(self, backbone: str, init: str | None, side: int):
        super().__init__()
        base = build_backbone(backbone, init)
        self.body = IntermediateLayerGetter(base.body, {base.stages[-1]: "last"})
        self.side, self.channels = side, base.channels[-1]

    @torch.inference_mode()
    def forward(self, pixels: Pixels, boxes: BoxArray) -> Features:
        """Features of regions of an image; in eval mode."""
        device = next(self.parameters()).device
        image = torch.from_numpy(pixels).to(device).permute(2, 0, 1).float() / 255
        chunks = torch.from_numpy(boxes).to(device).split(REGIONS_PER_PASS)
        features = torch.cat([self.eval().embed(self.warp(image, chunk)) for chunk in chunks])
        return features.float().cpu().numpy().astype(np.float16)

    def embed(self, regions: Float[Tensor, "p 3 s s"]) -> Float[Tensor, "p f"]:
        """Features of warped regions."""
        return self.body(normalize(regions, IMAGENET_MEAN, IMAGENET_STD))["last"].mean((2, 3))

    def warp(self, image: Image, boxes: Boxes) -> Float[Tensor, "p 3 s s"]:
        """Regions of an image with `CONTEXT` around them; ImageNet's mean outside of the image."""
        margin = CONTEXT / (224 - 2 * CONTEXT) * (boxes[:, 2:] - boxes[:, :2])
        boxes = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1).to(image)
        mean = image.new_tensor(IMAGENET_MEAN)[:, None, None]
        centered = (image - mean)[None]
        return roi_align(centered, [boxes], self.side, sampling_ratio=2, aligned=True) + mean

    def fine_tune(
        self, dataset: Dataset, proposals: Callable, classes: int, iterations: int, rate: float
    ) -> None:
        """R-CNN's second stage: classify warped regions with a softmax head, then drop the head.

        A quarter of the regions are objects (IoU >= .5). Two images per iteration; AdamW from a
        learning rate, with a cosine schedule.
        """
        device = next(self.parameters()).device
        head = nn.Linear(self.channels, classes).to(device)
        sampler = BalancedPositiveNegativeSampler(FINE_TUNED_REGIONS, 0.25)
        optimizer = torch.optim.AdamW([*self.parameters(), *head.parameters()], rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        self.train()
        for _ in tqdm(range(iterations), "fine-tune"):
            # Sample regions of two images.
            regions, labels = [], []
            for i in torch.randint(len(dataset), (2,)).tolist():
                image, target = dataset[i]
                image = model_input(image, device)
                boxes, iou, assigned, _ = labeled_regions(target, proposals(image))
                assigned = assigned * (iou >= 0.5)
                (positive,), (negative,) = sampler([assigned])
                sampled = (positive | negative).bool()
                regions.append(self.warp(image, boxes[sampled].to(device)))
                labels.append(assigned[sampled].to(device))
            if not sum(map(len, labels)):
                continue
            # Update backbone and head.
            loss = F.cross_entropy(head(self.embed(torch.cat(regions))), torch.cat(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.eval()
