"""RoI pooling on a feature pyramid, as R-CNN's line had it before RoIAlign."""

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_pool
from torchvision.ops.poolers import _convert_to_roi_format


class MultiScaleRoIPool(MultiScaleRoIAlign):
    """The largest value in each cell of a region, whose borders are rounded to whole cells of the map (Fast R-CNN, sec. 2.1).

    Takes the place of torchvision's RoIAlign, which does not round: same levels, same shapes.
    """

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        maps, regions, levels = (
            [x[name] for name in self.featmap_names],
            _convert_to_roi_format(boxes),
            self.map_levels(boxes),
        )
        pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], *self.output_size)
        for level, (features, scale) in enumerate(zip(maps, self.scales, strict=True)):
            mine = torch.where(levels == level)[0]
            # In fp32, as torchvision's own rounding is; on a CPU there is no other.
            found = roi_pool(features.float(), regions[mine].float(), self.output_size, scale)
            pooled[mine] = found.to(pooled.dtype)
        return pooled


class MultiScaleRoIRound(MultiScaleRoIAlign):
    """RoIAlign of regions whose borders are rounded to whole cells first: between RoI pooling, which rounds the parts of a region,
    too, and takes the maximum of each, and RoIAlign."""

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        cell = 1 / boxes[0].new_tensor(self.scales)[self.map_levels(boxes), None]
        rounded = (torch.cat(boxes) / cell).round() * cell
        return super().forward(
            x, list(rounded.split([len(of_image) for of_image in boxes])), image_shapes
        )


POOLING = {"align": MultiScaleRoIAlign, "pool": MultiScaleRoIPool, "round": MultiScaleRoIRound}
