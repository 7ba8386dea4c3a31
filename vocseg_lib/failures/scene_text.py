"""A scene in words: what is in an image, how large, where, and what touches what; as sentences, and as a graph for JSON."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.explain import explain_failure
from vocseg_lib.utils.boxes import box_area, box_intersection, masks_to_boxes
from vocseg_lib.utils.files import to_jsonable
from vocseg_lib.utils.rle import decode_rle

SIZES = {"small": 5.0, "medium": 25.0, "large": math.inf}
"""Percent of the image, up to."""
CONTACT = 0.015
"""Masks that are as near as this share of the image's diagonal touch: VOC leaves void, some 5 pixels wide, between objects."""
LEAST_OVERLAP = 5.0
"""Percent of the smaller box that has to lie in the other one for one object to be in front of the other."""
IN_FRONT = 0.55
"""Share of the object pixels where two boxes meet that are the front one's."""
SAME_PLACE = 0.5
"""IoU of masks from which they are about the same thing."""
COUNTS = "no one two three four five six seven eight nine ten eleven twelve".split()
SPELT = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
PLURALS = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "sheep": "sheep",
    "mouse": "mice",
    "knife": "knives",
    "skis": "skis",
    "scissors": "scissors",
}
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")


@dataclass(frozen=True)
class Description:
    """What is in an image. `about` has the instances, by their places, that each of the sentences names.

    `graph`: image (width, height), objects (id, class, score where there is one, box as xyxy pixels, percent of the image, size,
    position) and relations (subject, relation, object, and overlap in percent of the smaller box, or distance in pixels).
    """

    sentences: list[str]
    about: list[list[int]]
    graph: dict

    def __str__(self) -> str:
        return " ".join(self.sentences)

    @property
    def json(self) -> str:
        """The graph as text, to paste into a language model."""
        return json.dumps(to_jsonable(self.graph))


def describe(
    instances: list[dict], names: dict[int, str], image: dict | None = None
) -> Description:
    """An image's instances, COCO results or annotations with run-length coded masks, in words; `names` maps category ids, `image`
    has the width and height of one in which there may be nothing.

    The largest object comes first; empty masks are nothing. What lies in front of what is read off the place where their boxes
    meet: the front one has most of its pixels. Objects that touch nothing are placed by their nearest neighbour. Raises ValueError
    for an instance without a mask, or of a category without a name, and for masks of different images.
    """
    _check(instances, names)
    size = {key: (image or {}).get(key) for key in ("width", "height")}
    masks = torch.from_numpy(decode_rle([instance["segmentation"] for instance in instances]))
    areas = masks.flatten(1).sum(1) if len(instances) else torch.zeros(0)
    order = [i for i in areas.argsort(descending=True, stable=True).tolist() if areas[i]]
    if not order:
        return Description(
            ["There is nothing."], [[]], {"image": size, "objects": [], "relations": []}
        )
    instances, masks = [instances[i] for i in order], masks[order]
    height, width = masks.shape[1:]
    boxes, share = masks_to_boxes(masks), (100 * areas[order] / (height * width)).tolist()
    classes = [
        SPELT.get(name, name) for name in (names[instance["category_id"]] for instance in instances)
    ]
    counts, seen, objects = Counter(classes), Counter(), []
    for instance, name, box, percent in zip(instances, classes, boxes, share, strict=True):
        seen[name] += 1
        objects.append(
            {
                "id": f"{name} {seen[name]}" if counts[name] > 1 else name,
                "class": names[instance["category_id"]],
                **({} if instance.get("score") is None else {"score": round(instance["score"], 3)}),
                "box": [round(side) for side in box.tolist()],
                "percent": round(percent, 1),
                "size": next(size for size, most in SIZES.items() if percent < most),
                "position": _position(box, height, width),
            }
        )
    relations = _relations(masks, boxes)
    called = [
        o["id"] if counts[name] > 1 else f"the {name}"
        for o, name in zip(objects, classes, strict=True)
    ]
    sentences, named = [_counted(counts)], [order]
    for i, (o, name) in enumerate(zip(objects, called, strict=True)):
        sentences.append(
            f"{_capital(name)} is {o['size']} ({_percent(o['percent'])} % of the image), {o['position']}."
        )
        named.append([order[i]])
    for first, relation, second, facts in relations:
        measured = "".join(
            f", overlap {v} %" if k == "overlap" else f", {v} pixel{'s' if v > 1 else ''} away"
            for k, v in facts.items()
            if v
        )
        sentences.append(f"{_capital(called[first])} {_verb(relation)} {called[second]}{measured}.")
        named.append([order[first], order[second]])
    linked = [
        {"subject": objects[i]["id"], "relation": r, "object": objects[j]["id"], **facts}
        for i, r, j, facts in relations
    ]
    return Description(
        sentences,
        named,
        {"image": {"width": width, "height": height}, "objects": objects, "relations": linked},
    )


def _check(instances: list[dict], names: dict[int, str]) -> None:
    for i, instance in enumerate(instances):
        if not isinstance(instance, dict) or "category_id" not in instance:
            raise ValueError(
                f"instance {i} has no category_id: detections of a model become instances by `detections_to_coco`"
            )
        if instance["category_id"] not in names:
            raise ValueError(
                f"category {instance['category_id']} of instance {i} has no name; there are {names}"
            )
        if "counts" not in (instance.get("segmentation") or ()):
            raise ValueError(
                f"instance {i} has no run-length coded mask (segmentation with size and counts)"
            )
    sizes = {tuple(instance["segmentation"]["size"]) for instance in instances}
    if len(sizes) > 1:
        listed = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise ValueError(
            f"these instances have masks of {listed} pixels: describe one image at a time"
        )


def _counted(counts: Counter) -> str:
    parts = [_number(count, name) for name, count in counts.items()]
    return _capital(", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]) + "."


def _number(count: int, name: str) -> str:
    if count == 1:
        return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
    ending = name.split()[-1]
    if ending in PLURALS:
        plural = name.removesuffix(ending) + PLURALS[ending]
    elif name.endswith(("s", "x", "ch", "sh")):
        plural = name + "es"
    elif name.endswith("y") and name[-2:-1] not in "aeiou":
        plural = name[:-1] + "ies"
    else:
        plural = name + "s"
    return f"{COUNTS[count] if count < len(COUNTS) else count} {plural}"


def _percent(value: float) -> str:
    return f"{value:.0f}" if value >= 1 else f"{value:.1f}" if value >= 0.1 else "under 0.1"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _verb(relation: str) -> str:
    return relation if relation == "touches" else f"is {relation}"


def _position(box: Float[Tensor, "4"], height: int, width: int) -> str:
    """In which ninth of the image a box's centre lies."""
    x, y = ((box[:2] + box[2:]) / 2).tolist()
    row, column = ROWS[min(2, int(3 * y / height))], COLUMNS[min(2, int(3 * x / width))]
    where = f"{row} {column}".strip()
    return f"at the {where}" if row else f"on the {where}" if where else "in the middle"


def _relations(
    masks: Bool[Tensor, "n h w"], boxes: Float[Tensor, "n 4"]
) -> list[tuple[int, str, int, dict]]:
    """(subject, relation, object, facts): of all that touch, then of each other object to its nearest."""
    pixels = masks.flatten(1).float()
    shared, areas = pixels @ pixels.T, pixels.sum(1)
    iou = shared / (areas[:, None] + areas - shared)
    reach = 1 + round(CONTACT * math.hypot(*masks.shape[1:]))  # 1: the neighbouring pixel
    near = (_grown(masks, reach).flatten(1) @ pixels.T) > 0
    overlap = (
        100
        * box_intersection(boxes, boxes)
        / torch.minimum(box_area(boxes)[:, None], box_area(boxes))
    )
    pairs = list(combinations(range(len(masks)), 2))
    found, touching = [], set()
    for larger, smaller in (pair for pair in pairs if near[pair]):
        touching |= {larger, smaller}
        percent = round(overlap[larger, smaller].item())
        relation = (
            "touches"
            if percent < LEAST_OVERLAP
            else _depth(masks[[smaller, larger]], boxes[[smaller, larger]])
        )
        if iou[larger, smaller] >= SAME_PLACE:
            relation = "in the same place as"
        found.append((smaller, relation, larger, {"overlap": percent}))
    gaps = {pair: _gap(*boxes[list(pair)]) for pair in pairs}
    alone = set(range(len(masks))) - touching
    nearest = {
        min((p for p in pairs if i in p), key=lambda p: math.hypot(*gaps[p]))
        for i in alone
        if pairs
    }
    for larger, smaller in sorted(nearest):
        pixels = round(math.hypot(*gaps[larger, smaller]))
        relation = (
            _direction(boxes[smaller], boxes[larger]) if pixels else "near"
        )  # by boxes, which say nothing where they overlap
        found.append((smaller, relation, larger, {"distance": pixels} if pixels else {}))
    return found


def _grown(masks: Bool[Tensor, "n h w"], reach: int) -> Float[Tensor, "n h w"]:
    """Masks with all that is at most `reach` pixels away from them, in rows and in columns."""
    wide = F.max_pool2d(masks.float(), (1, 2 * reach + 1), 1, (0, reach))
    return F.max_pool2d(wide, (2 * reach + 1, 1), 1, (reach, 0))


def _depth(masks: Bool[Tensor, "2 h w"], boxes: Float[Tensor, "2 4"]) -> str:
    """What the first of two is to the second, by whose pixels lie where their boxes meet."""
    x1, y1 = torch.maximum(boxes[0, :2], boxes[1, :2]).int().tolist()
    x2, y2 = torch.minimum(boxes[0, 2:], boxes[1, 2:]).int().tolist()
    first, second = masks[:, y1:y2, x1:x2].flatten(1).sum(1).tolist()
    if first + second == 0 or max(first, second) < IN_FRONT * (first + second):
        return "touches"
    return "in front of" if first > second else "behind"


def _gap(first: Float[Tensor, "4"], second: Float[Tensor, "4"]) -> tuple[float, float]:
    """Pixels between two boxes, across and down; 0 where they overlap."""
    apart = torch.maximum(first[:2] - second[2:], second[:2] - first[2:]).clamp(min=0)
    return tuple(apart.tolist())


def _direction(box: Float[Tensor, "4"], other: Float[Tensor, "4"]) -> str:
    """On which side of the other a box lies, by where they are furthest apart."""
    across, down = _gap(box, other)
    x, y = ((box[:2] + box[2:] - other[:2] - other[2:]) / 2).tolist()
    if across >= down:
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"


def describe_with_errors(
    analysis: Analysis, image_id: int
) -> tuple[dict[str, Description], pd.DataFrame]:
    """An image in words "as predicted", by the detections that an analysis counts, and "as it is"; and both sentence by sentence
    with what went wrong with the objects that it names: source, sentence, failures (types), why (a sentence on each). What was
    missed is about the first sentence of what was predicted, which counts.

    Raises ValueError for an image that the ground truth does not have.
    """
    dataset_eval = analysis.counted.dataset_eval
    image_eval = next(
        (s for s in dataset_eval.image_evals if dataset_eval.images[s.image]["id"] == image_id),
        None,
    )
    if image_eval is None:
        raise ValueError(f"the ground truth has no image {image_id}")
    names = {c["id"]: c["name"] for c in dataset_eval.categories}
    # That an object is missed is said more exactly by the pixels' family: in a crowd, or alone.
    cases = analysis.cases.query(
        "image_id == @image_id and family != 'TIDE, boxes' and type != 'missed'"
    )
    sources = {
        "as predicted": ("detection", image_eval.detections, dataset_eval.detections),
        "as it is": ("annotation", image_eval.objects, dataset_eval.annotations),
    }
    described, rows = {}, []
    for source, (column, places, entries) in sources.items():
        told = described[source] = describe(
            [entries[i] for i in places], names, dataset_eval.images[image_eval.image]
        )
        for sentence, about in zip(told.sentences, told.about, strict=True):
            counts = source == "as predicted" and sentence == told.sentences[0]
            wrong = cases[cases[column].isin(places[about]) | (counts & (cases["detection"] < 0))]
            why = [explain_failure(analysis, case) for _, case in wrong.iterrows()]
            rows.append(
                (
                    source,
                    sentence,
                    ", ".join(dict.fromkeys(wrong["type"])),
                    " ".join(dict.fromkeys(why)),
                )
            )
    return described, pd.DataFrame(rows, columns=["source", "sentence", "failures", "why"])


def most_telling_images(
    analyses: dict[str, Analysis], count: int = 3, most: int = 4
) -> list[tuple[str, int]]:
    """Of which images (title, image id) to tell, each once: those with the most failures, of those in which something, and no more
    than `most` objects, was found and is; others where there are too few of them."""
    ranked = []
    for title, analysis in analyses.items():
        dataset_eval, failures = analysis.counted.dataset_eval, Counter(analysis.cases["image_id"])
        for image_eval in dataset_eval.image_evals:
            image_id = dataset_eval.images[image_eval.image]["id"]
            telling = 0 < len(image_eval.detections) <= most and 0 < len(image_eval.objects) <= most
            ranked.append((not telling, -failures[image_id], image_id, title))
    chosen = {}
    for _, _, image_id, title in sorted(ranked):
        chosen.setdefault(image_id, title)
    return [(title, image_id) for image_id, title in chosen.items()][:count]


def resolve_image_names(asked: str, names: Iterable[str]) -> list[str]:
    """Of images' names without ending those that someone asks for, with an ending or without, by the whole or the last part."""
    forms = {asked, str(Path(asked).with_suffix(""))}
    last = {Path(form).name for form in forms}
    return [name for name in names if name in forms or Path(name).name in last]
