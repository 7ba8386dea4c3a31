"""RoI pooling on a feature pyramid: RoIAlign and what preceded it."""

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_pool
from torchvision.ops.poolers import _convert_to_roi_format


class MultiScaleRoIPool(MultiScaleRoIAlign):
    """RoI pooling (Fast R-CNN, sec. 2.1): the maximum per bin, borders rounded to whole cells."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list) -> Tensor:
        maps = [x[name] for name in self.featmap_names]
        regions, levels = _convert_to_roi_format(boxes), self.map_levels(boxes)
        pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], *self.output_size)
        for level, (features, scale) in enumerate(zip(maps, self.scales, strict=True)):
            index = torch.where(levels == level)[0]
            # In fp32, as torchvision's own rounding is; on a CPU there is no other.
            rois = roi_pool(features.float(), regions[index].float(), self.output_size, scale)
            pooled[index] = rois.to(pooled.dtype)
        return pooled


class MultiScaleRoIRound(MultiScaleRoIAlign):
    """RoIAlign of regions whose borders, not bins, are rounded to whole cells first."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list) -> Tensor:
        cell = 1 / boxes[0].new_tensor(self.scales)[self.map_levels(boxes), None]
        rounded = (torch.cat(boxes) / cell).round() * cell
        return super().forward(x, list(rounded.split([len(b) for b in boxes])), image_shapes)


POOLING = {"align": MultiScaleRoIAlign, "pool": MultiScaleRoIPool, "round": MultiScaleRoIRound}
