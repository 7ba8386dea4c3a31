"""Random ground truth and detections for hypothesis: ties, crowds, empty images, empty classes, more than 100 detections."""

import numpy as np
import torch
from hypothesis import strategies as st

from vocseg_lib.utils.rle import encode_rle

SIDE = 128


def blob(random: np.random.Generator, side: int) -> torch.Tensor:
    """A mask [side, side] of an ellipse, some of them of no pixel."""
    y, x = np.mgrid[:side, :side]
    centre, radii = (
        random.uniform(0, side, 2),
        random.uniform(0, side / 2, 2) ** random.uniform(0.3, 1),
    )
    return torch.from_numpy(
        ((x - centre[0]) / (radii[0] + 1e-9)) ** 2 + ((y - centre[1]) / (radii[1] + 1e-9)) ** 2 <= 1
    )


def box_of(mask: torch.Tensor) -> list[float]:
    ys, xs = torch.where(mask)
    if not len(xs):
        return [0.0, 0.0, 0.0, 0.0]
    return [
        float(xs.min()),
        float(ys.min()),
        float(xs.max() - xs.min() + 1),
        float(ys.max() - ys.min() + 1),
    ]


def judged_sets(**options) -> st.SearchStrategy:
    """Strategy of `judged_set`."""
    return st.builds(
        judged_set,
        st.integers(0, 2**32 - 1),
        **{name: st.just(value) for name, value in options.items()},
    )


def judged_set(seed: int, void: bool = False, most: int = 12) -> tuple[dict, list[dict]]:
    """(COCO ground truth, COCO results): few images and classes, scores with ties, detections near objects and anywhere."""
    random = np.random.default_rng(seed)
    images = [
        {"id": int(i), "height": SIDE, "width": SIDE, "file_name": f"{i}.jpg"}
        for i in random.permutation(20)[: random.integers(1, 6)]
    ]
    categories = [{"id": k, "name": f"class {k}"} for k in (2, 5, 9)][: random.integers(1, 4)]
    annotations, detections = [], []
    for image in images:
        if void:
            (image["void"],) = encode_rle(blob(random, SIDE)[None])
        masks = [blob(random, SIDE) for _ in range(random.integers(0, 5))]
        for mask in masks:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(random.choice([c["id"] for c in categories])),
                    "bbox": box_of(mask),
                    "area": int(mask.sum()),
                    "segmentation": encode_rle(mask[None])[0],
                    "iscrowd": int(random.random() < 0.2),
                }
            )
        for _ in range(random.integers(0, 2 * most)):
            mask = blob(random, SIDE)
            if masks and random.random() < 0.6:  # an object, moved a little
                shift = tuple(random.integers(-6, 7, 2).tolist())
                mask = torch.roll(masks[random.integers(len(masks))], shift, (0, 1))
            detections.append(
                {
                    "image_id": image["id"],
                    "category_id": int(random.choice([c["id"] for c in categories])),
                    "bbox": box_of(mask),
                    "score": round(float(random.random()), int(random.integers(1, 4))),
                    "segmentation": encode_rle(mask[None])[0],
                }
            )
    return {"images": images, "annotations": annotations, "categories": categories}, detections
