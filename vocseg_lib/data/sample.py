"""A picture with its objects, in memory of a few maps; at a smaller size where masks need it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import resize

from vocseg_lib.data.classes import VOID, read_object_map
from vocseg_lib.data.image_files import BadFile
from vocseg_lib.utils.rle import encode_map

MAX_SAMPLE_BYTES = 2.5e8  # picture as float, and masks; VOC's take at most a fifth
MAX_MASK_BYTES = 4e9  # of all masks at full size, at once


def fitting_size(
    size: Sequence[int], objects: int, max_bytes: float = MAX_SAMPLE_BYTES
) -> tuple[int, int]:
    """The largest size (height, width) of that aspect whose picture, as float, and masks fit."""
    return fit(size, (max_bytes / ((12 + objects) * size[0] * size[1])) ** 0.5)


def fit(size: Sequence[int], scale: float) -> tuple[int, int]:
    """A size shrunk by a factor; at least a pixel."""
    return tuple(max(1, int(min(scale, 1.0) * side)) for side in size)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a devkit; masks and boxes are made when they are asked for."""

    name: str
    path: Path  # of the object map
    image: UInt8[Tensor, "3 h w"]
    object_map: UInt8[np.ndarray, "h w"]
    ids: UInt8[np.ndarray, " n"]  # values of the objects in their map
    labels: Int[Tensor, " n"]  # from 1
    void: Bool[Tensor, "h w"]

    @property
    def masks(self) -> UInt8[Tensor, "n h w"]:
        """All of them at once: for a large picture, use `rles` or `shrunk`. Raises BadFile."""
        count = len(self.ids)
        if count * self.object_map.size > MAX_MASK_BYTES:
            reason = f"has {count} objects of {self.object_map.shape} (height, width): their masks"
            raise BadFile(self.path, "too large", f"{reason} would fill the memory; shrink it")
        return torch.from_numpy(self.object_map == self.ids[:, None, None]).view(torch.uint8)

    @property
    def rles(self) -> list[dict]:
        """Run-length codes of the masks."""
        return encode_map(self.object_map, self.ids)

    @property
    def boxes(self) -> Float[Tensor, "n 4"]:
        """xyxy pixels, x2 and y2 exclusive."""
        boxes = torch.tensor([coco_mask.toBbox(rle).tolist() for rle in self.rles])
        return box_convert(boxes.reshape(-1, 4), "xywh", "xyxy")

    def shrunk(self, max_bytes: float = MAX_SAMPLE_BYTES) -> "Sample":
        """The sample at a size of at most `max_bytes`; objects without a pixel left are dropped."""
        size = self.image.shape[1:]
        new = fitting_size(size, len(self.ids), max_bytes)
        if new == size:
            return self
        # The map's value at the center of each new pixel.
        sides = zip(size, new, strict=True)
        centers = np.ix_(*(((np.arange(b) + 0.5) * a / b).astype(int) for a, b in sides))
        object_map = self.object_map[centers]
        kept = np.isin(self.ids, object_map)
        return replace(
            self,
            image=resize(self.image, new),
            object_map=object_map,
            ids=self.ids[kept],
            labels=self.labels[torch.from_numpy(kept)],
            void=self.void[centers],
        )


def read_object_sides(object_map: Path) -> tuple[tuple[int, int], np.ndarray]:
    """Size (height, width) of a map, and those of its objects [n, 2]. Raises BadFile."""
    values = read_object_map(object_map)
    ids = np.setdiff1d(np.flatnonzero(np.bincount(values.ravel())), (0, VOID)).astype(np.uint8)
    boxes = coco_mask.toBbox(encode_map(values, ids)) if len(ids) else np.zeros((0, 4))
    return values.shape, boxes[:, [3, 2]]
