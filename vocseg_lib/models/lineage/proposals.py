"""Where an object may be, before anything is known of classes."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import nms

from vocseg_lib.models.postprocess import scale_boxes
from vocseg_lib.utils.boxes import box_iou, decode_boxes
from vocseg_lib.utils.files import atomic_write

SMALLEST_SIDE = 8
"""Pixels: smaller images have no regions to merge."""


def to_uint8_hwc(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB picture that a model was given (0..1)."""
    return (
        (image.detach().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    )


class DiskCache:
    """A function of an image (and of boxes in it) to an array, kept on disk by what it is of; a broken file is made anew.

    Without a folder nothing is kept. `setting` tells apart what different settings make of the same image.
    """

    remembers = True
    one_writes = Lock()

    def __init__(
        self, function: Callable[..., np.ndarray], folder: str | Path | None, setting: str
    ):
        self.function, self.folder, self.setting = function, folder and Path(folder), setting

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"], *more: np.ndarray) -> np.ndarray:
        if self.folder is None or not DiskCache.remembers:
            return self.function(picture, *more)
        key = hashlib.sha1(f"{self.setting} {picture.shape}".encode())
        for part in (picture, *more):
            key.update(np.ascontiguousarray(part))
        path = self.folder / f"{key.hexdigest()[:24]}.npy"
        try:
            return np.load(path)
        except (OSError, ValueError, EOFError):
            made = self.function(picture, *more)
            self.folder.mkdir(parents=True, exist_ok=True)
            with DiskCache.one_writes, atomic_write(path) as beside, open(beside, "wb") as file:
                np.save(file, made)
            return made


@contextmanager
def cache_disabled() -> Iterator[None]:
    """Within, everything is worked out anew, as it takes to be timed."""
    DiskCache.remembers = False
    try:
        yield
    finally:
        DiskCache.remembers = True


class SelectiveSearch:
    """Selective search (Uijlings et al. 2013, its fast mode), OpenCV's: boxes [p, 4] (xyxy pixels) of an image in 0..1.

    The image is searched at a short side of at most `short_side` pixels, which is what its time goes with. OpenCV's order depends
    on a random number that cannot be set; ours, as in the paper a random number times the place in the hierarchy (here: the rank by
    size), comes from `seed`. At most `count` boxes; none for an image that is too small.
    """

    def __init__(
        self,
        count: int = 500,
        short_side: int = 200,
        seed: int = 0,
        cache: str | Path | None = None,
    ):
        self.count, self.short_side, self.seed = count, short_side, seed
        self.find = DiskCache(self._find, cache, f"selective search {short_side} {seed}")

    def __call__(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "p 4"]:
        return torch.from_numpy(self.find(to_uint8_hwc(image))[: self.count])

    def _find(self, picture: np.ndarray) -> Float[np.ndarray, "p 4"]:
        height, width = picture.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            return np.zeros((0, 4), np.float32)
        scale = min(1.0, self.short_side / min(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(
            cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        )
        search.switchToSelectiveSearchFast()
        found = np.asarray(search.process(), dtype=np.float32).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        found *= np.array([width / size[0], height / size[1]] * 2, dtype=np.float32)
        found = np.unique(found, axis=0)
        area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
        found = found[np.argsort(-area, kind="stable")]
        rank = np.random.default_rng(self.seed).random(len(found)) * np.arange(1, len(found) + 1)
        return found[np.argsort(rank, kind="stable")]


def assign_ground_truth(
    boxes: Float[Tensor, "p 4"], target: dict
) -> tuple[Float[Tensor, " p"], Int[Tensor, " p"], Float[Tensor, "p 4"]]:
    """For each box the IoU with the object that it overlaps most, that one's label and its box; 0 and zeros without objects."""
    objects = torch.cat([target["boxes"].as_subclass(Tensor).float(), torch.zeros(1, 4)])
    labels = torch.cat([target["labels"], torch.zeros(1, dtype=torch.int64)])
    iou, about = box_iou(boxes, objects).max(1)
    return iou, labels[about], objects[about]


def proposal_recall(
    proposals: list[Float[Tensor, "_ 4"]],
    objects: list[Float[Tensor, "_ 4"]],
    counts: list[int],
    iou: float,
) -> Float[np.ndarray, " c"]:
    """Percent of the objects that one of the first so many proposals of their image covers with an IoU of at least `iou`.

    Average recall is the mean over IoU .5 to .95 (Hosang et al. 2015). NaN when there is no object.
    """
    best = _best_so_far(proposals, objects, counts)
    return 100 * (best >= iou).float().mean(1).numpy()


def average_recall(
    proposals: list[Float[Tensor, "_ 4"]], objects: list[Float[Tensor, "_ 4"]], counts: list[int]
) -> Float[np.ndarray, " c"]:
    """Recall in percent, the mean over IoU .5, .55 to .95 (Hosang et al. 2015; COCO's AR)."""
    return np.mean(
        [proposal_recall(proposals, objects, counts, iou) for iou in np.linspace(0.5, 0.95, 10)],
        axis=0,
    )


def _best_so_far(
    proposals: list[Tensor], objects: list[Tensor], counts: list[int]
) -> Float[Tensor, "c n"]:
    """The best IoU with each object of all images among the first proposals."""
    parts = []
    for mine, theirs in zip(proposals, objects, strict=True):
        iou = (
            torch.cat([torch.zeros(1, len(theirs)), box_iou(mine.float(), theirs.float())])
            .cummax(0)
            .values
        )
        parts.append(iou[torch.tensor(counts).clamp(max=len(mine))])
    return torch.cat(parts, 1)


@torch.inference_mode()
def rpn_proposals(model: nn.Module, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "p 4"]:
    """What the RPN of a Mask R-CNN proposes, best first (pixels)."""
    out = model.network([image])
    return resize_boxes(out["proposals"][0].float(), out["resized"][0], out["image_sizes"][0])


@torch.inference_mode()
def scored_priors(model: nn.Module, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "p 4"]:
    """A YOLACT's priors, moved to where it says, the least background first; of those that overlap by IoU 0.7, the first."""
    out = model.network([image])
    boxes = scale_boxes(decode_boxes(out["box_offsets"][0], out["priors"]), *image.shape[-2:])
    return boxes[nms(boxes, 1 - out["class_logits"][0].softmax(1)[:, 0], 0.7)]
