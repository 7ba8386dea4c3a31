"""Features of regions: hand-crafted ones, and those of a network (R-CNN)."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from skimage.feature import local_binary_pattern
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import roi_align
from torchvision.transforms.v2.functional import normalize
from tqdm import tqdm

from vocseg_lib.data.transforms import IMAGENET_MEAN, IMAGENET_STD, model_input
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.lineage.proposals import BoxArray, Boxes, Image, Pixels, assign_ground_truth

Features = Float[np.ndarray, "p f"]
HOG_SIDE = 48
"""Pixels: side of the square that HOG sees of a region."""
COLOR_BINS, TEXTURE_BINS = 8, 10
FINE_TUNED_REGIONS, REGIONS_PER_PASS = 16, 64
"""Per image in a batch of fine-tuning; per pass through the network without gradients."""
CONTEXT = 16
"""Pixels of a warped region of 224 x 224 around its box (R-CNN paper, sec. 2.1 and appendix A)."""


def whole_pixels(boxes: BoxArray, height: int, width: int) -> Int[np.ndarray, "p 4"]:
    """Boxes rounded to pixels of an image (xyxy), each of at least one pixel."""
    x1, y1, x2, y2 = np.rint(boxes).astype(int).T
    x1, y1 = x1.clip(0, width - 1), y1.clip(0, height - 1)
    x2, y2 = np.maximum(x2.clip(0, width), x1 + 1), np.maximum(y2.clip(0, height), y1 + 1)
    return np.stack([x1, y1, x2, y2], 1)


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
    colors = [_histograms(lab[..., channel], COLOR_BINS, boxes) for channel in range(3)]
    patterns = local_binary_pattern(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 8, 1, "uniform")
    texture = _histograms(patterns.astype(int), TEXTURE_BINS, boxes)
    parts = shape, np.concatenate(colors, 1), texture
    norms = (np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-9) for part in parts)
    unit = [part / norm for part, norm in zip(parts, norms, strict=True)]
    return np.concatenate(unit, 1).astype(np.float16)


def _histograms(values: np.ndarray, bins: int, boxes: np.ndarray) -> np.ndarray:
    """Counts of values in boxes, by integral images."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1, bins), np.float32)
    sums[1:, 1:] = (values[..., None] == np.arange(bins)).cumsum(0, dtype=np.float32).cumsum(1)
    x1, y1, x2, y2 = boxes.T
    return sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]


class RCNNFeatures(nn.Module):
    """R-CNN's features (Girshick et al. 2014): each region warped to a square, through a backbone.

    The mean of its last map. Squares have `side` pixels.
    """

    def __init__(self, backbone: str, weights: str | None, side: int):
        super().__init__()
        base = build_backbone(backbone, weights)
        self.body = IntermediateLayerGetter(base.body, {base.stages[-1]: "last"})
        self.side, self.channels = side, base.channels[-1]

    @torch.inference_mode()
    def forward(self, pixels: Pixels, boxes: BoxArray) -> Features:
        """Features of regions of an image; in eval mode."""
        device = next(self.parameters()).device
        image = torch.from_numpy(pixels).to(device).permute(2, 0, 1).float() / 255
        chunks = torch.from_numpy(boxes).to(device).split(REGIONS_PER_PASS)
        parts = [self.eval().embed(self.warp(image, chunk)) for chunk in chunks if len(chunk)]
        features = torch.cat(parts) if parts else torch.zeros(0, self.channels)
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
        self,
        dataset: Dataset,
        proposals: Callable[[Tensor], Tensor],
        num_classes: int,
        iterations: int,
        learning_rate: float,
        seed: int = 0,
    ) -> None:
        """R-CNN's second stage: classify warped regions with a softmax head, then drop the head.

        A quarter of the regions are objects (IoU >= .5). Two images per iteration; AdamW with a
        cosine schedule.
        """
        random, device = torch.Generator().manual_seed(seed), next(self.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(self.channels, num_classes)
        parameters = [*self.parameters(), *head.to(device).parameters()]
        optimizer = torch.optim.AdamW(parameters, learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        self.train()
        for _ in tqdm(range(iterations), "fine-tune"):
            # Sample regions of two images.
            regions, labels = [], []
            for i in torch.randint(len(dataset), (2,), generator=random).tolist():
                image, target = dataset[i]
                image = model_input(image, device)
                boxes = torch.cat([target["boxes"].as_subclass(Tensor).float(), proposals(image)])
                iou, assigned, _ = assign_ground_truth(boxes, target)
                assigned = assigned * (iou >= 0.5)
                order = torch.randperm(len(boxes), generator=random)
                positive = order[assigned[order] > 0][: FINE_TUNED_REGIONS // 4]
                sampled = torch.cat([positive, order[assigned[order] == 0]])[:FINE_TUNED_REGIONS]
                regions.append(self.warp(image, boxes[sampled].to(device)))
                labels.append(assigned[sampled].to(device))
            if not sum(map(len, labels)):
                continue
            # Update backbone and head.
            logits = head(self.embed(torch.cat(regions)))
            optimizer.zero_grad()
            F.cross_entropy(logits, torch.cat(labels)).backward()
            optimizer.step()
            schedule.step()
        self.eval()
