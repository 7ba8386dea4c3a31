"""Descriptions of hand-made scenes, and the failures that wrong sentences lead to."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.cli import vocseg
from tests.helpers.shapes import analysis_of
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.failures.scene_text import describe_scene, describe_with_errors
from vocseg_lib.utils.rle import encode_rle

NAMES = {1: "person", 2: "motorbike", 3: "sheep", 4: "bus", 5: "aeroplane"}
HEIGHT, WIDTH = 120, 160
SIZE = {"width": WIDTH, "height": HEIGHT}


def instance(label, *rectangles, without=None, **more):
    """An instance whose mask is rectangles (xyxy), without one."""
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for x1, y1, x2, y2 in rectangles:
        mask[y1:y2, x1:x2] = True
    if without:
        x1, y1, x2, y2 = without
        mask[y1:y2, x1:x2] = False
    return {"category_id": label, "segmentation": encode_rle(mask[None])[0], **more}


def describe(instances):
    return describe_scene(instances, NAMES, SIZE)


def relation(first, second):
    """The one relation of two instances; its subject is the smaller one, which must be `first`."""
    (edge,) = describe([second, first]).graph["relations"]
    assert edge["subject"] == NAMES[first["category_id"]]
    assert edge["object"] == NAMES[second["category_id"]]
    return edge["relation"], edge.get("overlap", edge.get("distance"))


def test_counts_sizes_and_positions():
    instances = [
        instance(1, (0, 0, 10, 10), score=0.5),
        instance(2, (10, 30, 150, 110)),
        instance(1, (140, 0, 160, 20)),
        instance(3, (60, 10, 61, 11)),
    ]
    description = describe(instances)
    assert description.sentences[:5] == [
        "A motorbike, two persons and a sheep.",
        "The motorbike is large (58 % of the image), in the middle.",
        "Person 1 is small (2 % of the image), at the top right.",
        "Person 2 is small (0.5 % of the image), at the top left.",
        "The sheep is small (under 0.1 % of the image), at the top.",
    ]
    assert description.mentions[:3] == [[1, 2, 0, 3], [1], [2]]
    assert json.loads(description.json) == description.graph
    entry = {"id": "person 2", "class": "person", "score": 0.5, "box": [0, 0, 10, 10]}
    entry |= {"percent": 0.5, "size": "small", "position": "at the top left"}
    assert description.graph["objects"][2] == entry


@pytest.mark.parametrize(
    ("count", "label", "sentence"),
    [(2, 3, "Two sheep."), (3, 4, "Three buses."), (1, 5, "An aeroplane."), (13, 1, "13 persons.")],
)
def test_numbers_and_plurals(count, label, sentence):
    row = [instance(label, (10 * k, 0, 10 * k + 5, 5)) for k in range(count)]
    assert describe(row).sentences[0] == sentence


BUS, MOTORBIKE = instance(4, (10, 40, 80, 100)), instance(2, (20, 60, 140, 110))
BEHIND = instance(1, (60, 20, 100, 61), (60, 20, 62, 80))
"""A person of 40 x 60: 20 of its 60 rows are in the motorbike's box, most of them covered."""
CASES = {
    "behind": (BEHIND, MOTORBIKE, "behind", 33),
    "cut off at the box": (instance(1, (60, 20, 100, 60)), MOTORBIKE, "touches", 0),
    "in a hole of the bus behind it": (
        instance(3, (60, 50, 90, 80)),
        instance(4, (20, 20, 140, 100), without=(60, 50, 90, 80)),
        "in front of",
        100,
    ),
    "over a void border": (instance(3, (83, 40, 120, 100)), BUS, "touches", 0),
    "beyond a void border": (instance(3, (84, 40, 120, 100)), BUS, "right of", 4),
    "each has half of the 50 x 20 pixels where boxes meet": (
        instance(3, (60, 50, 110, 100), (60, 40, 61, 41)),
        instance(4, (10, 10, 110, 50), (10, 50, 60, 60)),
        "touches",
        33,
    ),
    "the same object twice": (
        instance(3, (20, 20, 60, 60)),
        instance(4, (20, 20, 62, 62)),
        "in the same place as",
        100,
    ),
    "in the middle of a ring, where boxes give no direction": (
        instance(3, (75, 55, 85, 65)),
        instance(4, (20, 20, 140, 100), without=(40, 40, 120, 80)),
        "near",
        None,
    ),
}
DIRECTIONS = {
    (5, 50, 30, 70): ("left of", 30),
    (110, 50, 130, 70): ("right of", 10),
    (70, 5, 90, 20): ("above", 20),
    (70, 95, 90, 110): ("below", 15),
    (5, 5, 30, 20): ("left of", 36),  # 30 pixels to the left and 20 above
}
for box, expected in DIRECTIONS.items():
    CASES[f"{box}"] = (instance(3, box), instance(2, (60, 40, 100, 80)), *expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_relations(case):
    first, second, *expected = case
    assert relation(first, second) == tuple(expected)


def test_relations_as_sentences():
    description = describe([instance(1, (0, 0, 5, 5)), BEHIND, MOTORBIKE])
    assert "Person 1 is behind the motorbike, overlap 33 %." in description.sentences
    assert description.sentences[0] == "A motorbike and two persons."


def test_isolated_objects_get_their_nearest_neighbor_once():
    boxes = {1: (0, 0, 20, 20), 2: (30, 0, 49, 20), 3: (100, 0, 118, 20)}
    row = [instance(label, box) for label, box in boxes.items()]
    relations = describe(row).graph["relations"]
    assert [tuple(r.values()) for r in relations] == [
        ("motorbike", "right of", "person", 10),
        ("sheep", "right of", "motorbike", 51),
    ]


@pytest.mark.parametrize("instances", [[], [instance(1)]])
def test_nothing(instances):
    description = describe(instances)
    assert description.mentions == [[]]
    assert description.graph == {"image": SIZE, "objects": [], "relations": []}


@pytest.mark.parametrize(("score", "in_json"), [(0.5, 0.5), (float("nan"), None), (None, "none")])
def test_scores_in_json(score, in_json):
    description = describe([instance(1, (0, 0, 9, 9), score=score)])
    assert json.loads(description.json)["objects"][0].get("score", "none") == in_json


def test_a_wrong_sentence_leads_to_its_failure():
    """A motorbike that is called a person, and a sheep that is missed."""
    motorbike, sheep = (20, 60, 120, 110), (130, 10, 155, 40)
    annotations = [
        instance(label, (x1, y1, x2, y2), image_id=7, area=(x2 - x1) * (y2 - y1), iscrowd=0)
        for label, (x1, y1, x2, y2) in ((2, motorbike), (3, sheep))
    ]
    content = {
        "images": [{"id": 7, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": k, "name": name} for k, name in NAMES.items()],
        "annotations": [{**a, "id": k} for k, a in enumerate(annotations, 1)],
    }
    detections = [
        instance(1, motorbike, image_id=7, score=0.9),
        instance(3, (0, 0, 9, 9), image_id=7, score=0.2),
    ]
    analysis = analysis_of(content, detections, 0.5)
    descriptions, rows = describe_with_errors(analysis, 7)
    assert descriptions["as predicted"].sentences[0] == "A person."
    assert descriptions["as annotated"].sentences[0] == "A motorbike and a sheep."
    failures = rows.set_index(["source", "sentence"])["failures"]
    assert failures["as predicted", "A person."] == "class, missed alone"  # the sheep too
    sheep = descriptions["as annotated"].sentences[2]
    assert failures["as annotated", sheep] == "missed alone"
    assert "person of score 0.90 is on a motorbike" in rows["why"][0]
    with pytest.raises(ValueError, match="8"):
        describe_with_errors(analysis, 8)
    _, rows = describe_with_errors(analysis_of(content, detections, 0.95), 7)
    assert rows["failures"][0] == "missed alone"
    right = analysis_of(content, [{**a, "score": 0.9} for a in annotations], 0.5)
    assert set(describe_with_errors(right, 7)[1]["failures"]) == {""}


def test_the_command_line_describes_a_prediction_file(devkit, tmp_path):
    content, sources = voc_to_coco(devkit, "val"), ("as predicted", "as annotated")
    keys = ("image_id", "category_id", "segmentation")
    detections = [{k: a[k] for k in keys} | {"score": 0.9} for a in content["annotations"]]
    detections[0]["category_id"] = 1 + detections[0]["category_id"] % 20
    predictions, out = tmp_path / "predictions.json", tmp_path / "scenes.json"
    predictions.write_text(json.dumps(detections))
    first, last = (Path(content["images"][k]["file_name"]).stem for k in (0, -1))
    command = ["describe", "--predictions", predictions, "--data", devkit, "--out", out, "--image"]
    done = vocseg(*command, first, f"{last}.jpg", "--pictures", tmp_path / "pictures")
    written = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert written == sorted(f"{name}.png" for name in (first, last))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    starts = [f"{name}, {source}" for name in (first, last) for source in sources]
    lines = [line for line in lines if ": " in line]  # others have the pictures' files
    assert [line.split(":")[0] for line in lines] == starts
    assert ["[class]" in line for line in lines[::2]] == [True, False]
    assert lines[2].split(": ")[1] == lines[3].split(": ")[1]
    scenes = json.loads(out.read_text())
    assert list(scenes) == [first, last]
    assert scenes[last]["as annotated"]["objects"]
    assert vocseg(*command, "nowhere").exit_code == 2
