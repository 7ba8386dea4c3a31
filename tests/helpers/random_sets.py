"""Random ground truth and detections for hypothesis: ties, crowds, empty images and classes."""

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from vocseg_lib.utils.rle import encode_rle

SIDE = 128


def random_ellipse(random: np.random.Generator) -> torch.Tensor:
    """A mask [SIDE, SIDE] of an ellipse, some of no pixel."""
    y, x = np.mgrid[:SIDE, :SIDE]
    center = random.uniform(0, SIDE, 2)
    radii = random.uniform(0, SIDE / 2, 2) ** random.uniform(0.3, 1) + 1e-9
    distance = ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2
    return torch.from_numpy(distance <= 1)


def on_random_sets(examples: int, *more: st.SearchStrategy, **options) -> Callable:
    """Decorator of a property test of `random_set` with options, and of more strategies."""
    options = {name: st.just(value) for name, value in options.items()}
    sets = st.builds(random_set, st.integers(0, 2**32 - 1), **options)
    checks = settings(max_examples=examples, deadline=None, suppress_health_check=HealthCheck)
    return lambda test: checks(given(sets, *more)(test))


def random_set(seed: int, void: bool = False, most: int = 12) -> tuple[dict, list[dict]]:
    """(COCO ground truth, COCO results) of few images and classes, detections near objects or not.

    Up to 2 * `most` detections per image, scores with ties.
    """
    random = np.random.default_rng(seed)
    images = [
        {"id": int(i), "height": SIDE, "width": SIDE, "file_name": f"{i}.jpg"}
        for i in random.permutation(20)[: random.integers(1, 6)]
    ]
    categories = [{"id": k, "name": f"class {k}"} for k in (2, 5, 9)][: random.integers(1, 4)]
    annotations, detections = [], []

    def random_entry(image: dict, mask: torch.Tensor) -> dict:
        (rle,) = encode_rle(mask[None])
        return {
            "image_id": image["id"],
            "category_id": int(random.choice([c["id"] for c in categories])),
            "bbox": coco_mask.toBbox(rle).tolist(),
            "segmentation": rle,
        }

    for image in images:
        if void:
            (image["void"],) = encode_rle(random_ellipse(random)[None])
        masks = [random_ellipse(random) for _ in range(random.integers(0, 5))]
        for mask in masks:
            more = {"id": len(annotations) + 1, "area": int(mask.sum())}
            iscrowd = int(random.random() < 0.2)
            annotations.append({**random_entry(image, mask), **more, "iscrowd": iscrowd})
        for _ in range(random.integers(0, 2 * most)):
            mask = random_ellipse(random)
            if masks and random.random() < 0.6:  # an object, moved a little
                shift = tuple(random.integers(-6, 7, 2).tolist())
                mask = torch.roll(masks[random.integers(len(masks))], shift, (0, 1))
            score = round(float(random.random()), int(random.integers(1, 4)))
            detections.append({**random_entry(image, mask), "score": score})
    return {"images": images, "annotations": annotations, "categories": categories}, detections
