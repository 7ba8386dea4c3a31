"""Scene descriptions: what is in an image, and where, as sentences and a graph."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.explain import explain_failure
from vocseg_lib.failures.mask_errors import dilate
from vocseg_lib.utils.boxes import box_area, box_intersection, masks_to_boxes
from vocseg_lib.utils.files import to_jsonable
from vocseg_lib.utils.rle import decode_rle

SIZE_PERCENT = {"small": 5.0, "medium": 25.0, "large": math.inf}
"""Upper limits of an object's share of the image, in percent."""
CONTACT = 0.015  # of the image's diagonal: masks this far apart touch, as void borders are 5 pixels
MIN_OVERLAP = 5.0  # percent of the smaller box inside the other, for one object in front of another
IN_FRONT = 0.55  # share of the object pixels where two boxes meet that the front one has
SAME_OBJECT_IOU = 0.5  # of the masks of two instances of the same object
POSITIONS = "at the top left,at the top,at the top right,on the left,in the middle,on the right,"
POSITIONS += "at the bottom left,at the bottom,at the bottom right"
"""By row and column of the ninth of the image that has the center of the box."""
NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()
IRREGULAR_PLURALS = dict(mouse="mice", knife="knives", sheep="sheep", skis="skis")
SPELLINGS = dict(diningtable="dining table", pottedplant="potted plant", tvmonitor="tv monitor")


@dataclass(frozen=True, kw_only=True)
class Description:
    """Sentences on an image, the indices of the instances that each mentions, and the scene graph.

    `graph`: image (width, height), objects (id, class, score if known, box in xyxy pixels, percent
    of the image, size, position) and relations (subject, relation, object, and overlap in percent
    of the smaller box or distance in pixels).
    """

    sentences: list[str]
    mentions: list[list[int]]
    graph: dict
    masks: Bool[Tensor, "n h w"]  # of the graph's objects

    @property
    def json(self) -> str:
        """The graph as text, to paste into a language model."""
        return json.dumps(to_jsonable(self.graph))


def describe_scene(instances: list[dict], names: dict[int, str], image: dict) -> Description:
    """Description of an image's validated COCO results or annotations, the largest first.

    Empty masks are ignored. `names`: class by category id. Of two overlapping objects, the one with
    most pixels where their boxes meet is in front. An object that touches none is located by its
    nearest neighbor.
    """
    masks = torch.from_numpy(decode_rle([instance["segmentation"] for instance in instances]))
    areas = masks.flatten(1).sum(1) if instances else torch.zeros(0)
    order = [i for i in areas.argsort(descending=True, stable=True).tolist() if areas[i]]
    graph = {"image": {key: image[key] for key in ("width", "height")}}
    masks, instances = masks[order], [instances[i] for i in order]
    if not order:
        graph |= {"objects": [], "relations": []}
        nothing = {"sentences": ["There is nothing."], "mentions": [[]]}
        return Description(**nothing, graph=graph, masks=masks)
    boxes = masks_to_boxes(masks)
    objects, relations = _objects(instances, masks, boxes, names), []
    counts = Counter(SPELLINGS.get(o["class"], o["class"]) for o in objects)
    # A class with one object needs no number: "the person" instead of "person 1".
    nouns = [o["id"] if counts[o["id"]] != 1 else f"the {o['id']}" for o in objects]
    *parts, last = (_number(count, name) for name, count in counts.items())
    sentences, mentions = [f"{', '.join(parts)} and {last}." if parts else f"{last}."], [order]
    for i, o in enumerate(objects):
        share = o["percent"]
        share = f"{share:.0f}" if share >= 1 else f"{share:.1f}" if share >= 0.1 else "under 0.1"
        sentences.append(f"{nouns[i]} is {o['size']} ({share} % of the image), {o['position']}.")
        mentions.append([order[i]])
    for i, relation, j, measures in _relations(masks, boxes):
        ending = f", overlap {measures['overlap']} %" if measures.get("overlap") else ""
        if distance := measures.get("distance"):
            ending = f", {distance} pixel{'s' if distance > 1 else ''} away"
        verb = relation if relation == "touches" else f"is {relation}"
        sentences.append(f"{nouns[i]} {verb} {nouns[j]}{ending}.")
        mentions.append([order[i], order[j]])
        ends = {"subject": objects[i]["id"], "relation": relation, "object": objects[j]["id"]}
        relations.append(ends | measures)
    graph |= {"objects": objects, "relations": relations}
    sentences = [sentence[0].upper() + sentence[1:] for sentence in sentences]
    return Description(sentences=sentences, mentions=mentions, graph=graph, masks=masks)


def _objects(
    instances: list[dict], masks: Bool[Tensor, "n h w"], boxes: Tensor, names: dict[int, str]
) -> list[dict]:
    """The objects of the scene graph."""
    height, width = masks.shape[1:]
    shares = (100 * masks.flatten(1).sum(1) / (height * width)).tolist()
    classes, objects = [names[i["category_id"]] for i in instances], []
    for i, (instance, name, percent) in enumerate(zip(instances, classes, shares, strict=True)):
        number = f" {classes[: i + 1].count(name)}" if classes.count(name) > 1 else ""
        entry = {"id": SPELLINGS.get(name, name) + number, "class": name}
        if instance.get("score") is not None:
            entry["score"] = round(instance["score"], 3)
        entry |= {"box": [round(side) for side in boxes[i].tolist()], "percent": round(percent, 1)}
        entry["size"] = next(size for size, limit in SIZE_PERCENT.items() if percent < limit)
        x, y = ((boxes[i, :2] + boxes[i, 2:]) / 2).tolist()
        ninth = 3 * min(2, int(3 * y / height)) + min(2, int(3 * x / width))
        objects.append(entry | {"position": POSITIONS.split(",")[ninth]})
    return objects


def _number(count: int, name: str) -> str:
    """A count and a noun in words, such as "two dining tables"."""
    if count == 1:
        return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
    *words, noun = name.split()
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        plural = f"{noun[:-1]}ies"
    else:
        plural = noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    number = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return " ".join([number, *words, IRREGULAR_PLURALS.get(noun, plural)])


def _relations(
    masks: Bool[Tensor, "n h w"], boxes: Float[Tensor, "n 4"]
) -> list[tuple[int, str, int, dict]]:
    """(subject, relation, object, measures) of all that touch, then of the others' nearest."""
    pixels = masks.flatten(1).float()
    shared, areas = pixels @ pixels.T, pixels.sum(1)
    iou = shared / (areas[:, None] + areas - shared)
    reach = 1 + round(CONTACT * math.hypot(*masks.shape[1:]))  # 1: the adjacent pixel
    dilated = torch.from_numpy(dilate(masks.numpy(), reach))
    near = (dilated.flatten(1).float() @ pixels.T) > 0
    smaller_area = torch.minimum(box_area(boxes)[:, None], box_area(boxes))
    overlap = 100 * box_intersection(boxes, boxes) / smaller_area
    low, high = boxes[:, :2], boxes[:, 2:]
    gaps = torch.maximum(low[:, None] - high, low - high[:, None]).clamp(min=0)  # in x and y
    pairs, relations = list(combinations(range(len(masks)), 2)), []
    touching = [pair for pair in pairs if near[pair]]
    for larger, smaller in touching:
        percent = round(overlap[larger, smaller].item())
        relation = "in the same place as"
        if iou[larger, smaller] < SAME_OBJECT_IOU:
            pair = [smaller, larger]
            relation = _depth(masks[pair], boxes[pair]) if percent >= MIN_OVERLAP else "touches"
        relations.append((smaller, relation, larger, {"overlap": percent}))
    distances = {pair: math.hypot(*gaps[pair].tolist()) for pair in pairs}
    isolated = set(range(len(masks))) - {i for pair in touching for i in pair}
    nearest = {min((p for p in pairs if i in p), key=distances.get) for i in isolated if pairs}
    for larger, smaller in sorted(nearest):
        relation, measures = "near", {}
        if distance := round(distances[larger, smaller]):  # else the boxes overlap: no direction
            across, down = gaps[larger, smaller].tolist()
            x, y = (low[smaller] + high[smaller] - low[larger] - high[larger]).tolist()
            sides = ("left of", "right of", x) if across >= down else ("above", "below", y)
            relation, measures = sides[sides[2] >= 0], {"distance": distance}
        relations.append((smaller, relation, larger, measures))
    return relations


def _depth(masks: Bool[Tensor, "2 h w"], boxes: Float[Tensor, "2 4"]) -> str:
    """Relation of the first of two objects to the second, by their pixels in both boxes."""
    x1, y1 = torch.maximum(boxes[0, :2], boxes[1, :2]).int().tolist()
    x2, y2 = torch.minimum(boxes[0, 2:], boxes[1, 2:]).int().tolist()
    first, second = masks[:, y1:y2, x1:x2].flatten(1).sum(1).tolist()
    if first + second == 0 or max(first, second) < IN_FRONT * (first + second):
        return "touches"
    return "in front of" if first > second else "behind"


def describe_with_errors(
    analysis: Analysis, image_id: int
) -> tuple[dict[str, Description], pd.DataFrame]:
    """Descriptions "as predicted" (from the score threshold on) and "as annotated", with errors.

    The table has one row per sentence: source, sentence, failures (types) and why (a sentence on
    each) of what it mentions; missed objects are failures of the first predicted sentence. Raises
    ValueError for an image that the ground truth does not have.
    """
    tables, dataset_eval = analysis.at_threshold, analysis.dataset_eval
    image = next((entry for entry in dataset_eval.images if entry["id"] == image_id), None)
    if image is None:
        raise ValueError(f"the ground truth has no image {image_id}")
    names = {c["id"]: c["name"] for c in dataset_eval.categories}
    # Missed objects come as "missed in a crowd" or "missed alone" too, which says more.
    cases = analysis.cases.query("family != 'TIDE, boxes' and type != 'missed'")
    cases = cases[cases["image_id"] == image_id]
    sources = {
        "as predicted": ("detection", tables.detections, dataset_eval.detections),
        "as annotated": ("annotation", tables.objects, dataset_eval.annotations),
    }
    descriptions, rows = {}, []
    for source, (column, table, entries) in sources.items():
        indices = table[column][table["image_id"] == image_id].to_numpy()
        scene = describe_scene([entries[i] for i in indices], names, image)
        descriptions[source], is_first = scene, source == "as predicted"
        for sentence, mentioned in zip(scene.sentences, scene.mentions, strict=True):
            missed, is_first = (cases["detection"] < 0) & is_first, False
            wrong = cases[cases[column].isin(indices[mentioned]) | missed]
            types = ", ".join(dict.fromkeys(wrong["type"]))
            why = (explain_failure(analysis, case) for _, case in wrong.iterrows())
            rows.append((source, sentence, types, " ".join(dict.fromkeys(why))))
    return descriptions, pd.DataFrame(rows, columns=["source", "sentence", "failures", "why"])
