"""Scenes drawn by hand, one for each thing that can be said, and an analysis that a wrong sentence leads to."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.cli import vocseg
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.failures.analysis import analyze
from vocseg_lib.failures.scene_text import (
    describe_scene,
    describe_with_errors,
    most_telling_images,
    resolve_image_names,
)
from vocseg_lib.utils.rle import encode_rle

NAMES = {1: "person", 2: "motorbike", 3: "sheep", 4: "bus", 5: "aeroplane"}
HEIGHT, WIDTH = 120, 160


def instance(
    label: int,
    *rectangles: tuple[int, int, int, int],
    without: tuple[int, int, int, int] | None = None,
    **more,
) -> dict:
    """An instance whose mask is some rectangles (xyxy), less one."""
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for x1, y1, x2, y2 in rectangles:
        mask[y1:y2, x1:x2] = True
    if without:
        x1, y1, x2, y2 = without
        mask[y1:y2, x1:x2] = False
    return {"category_id": label, "segmentation": encode_rle(mask[None])[0], **more}


def relation(first: dict, second: dict) -> tuple[str, dict]:
    """The one relation between two instances; its subject is the smaller one, and that has to be `first`."""
    (found,) = describe_scene([second, first], NAMES).graph["relations"]
    assert (found["subject"], found["object"]) == (
        NAMES[first["category_id"]],
        NAMES[second["category_id"]],
    )
    return found["relation"], {k: v for k, v in found.items() if k in ("overlap", "distance")}


def test_counts_sizes_and_positions():
    told = describe_scene(
        [
            instance(1, (0, 0, 10, 10), score=0.5),
            instance(2, (10, 30, 150, 110)),
            instance(1, (140, 0, 160, 20)),
            instance(3, (60, 10, 61, 11)),
        ],
        NAMES,
    )
    assert told.sentences[:5] == [
        "A motorbike, two persons and a sheep.",
        "The motorbike is large (58 % of the image), in the middle.",
        "Person 1 is small (2 % of the image), at the top right.",
        "Person 2 is small (0.5 % of the image), at the top left.",
        "The sheep is small (under 0.1 % of the image), at the top.",
    ]
    assert told.mentions[:3] == [[1, 2, 0, 3], [1], [2]]
    assert json.loads(json.dumps(told.graph)) == told.graph
    last = next(o for o in told.graph["objects"] if o["id"] == "person 2")
    assert last == {
        "id": "person 2",
        "class": "person",
        "score": 0.5,
        "box": [0, 0, 10, 10],
        "percent": 0.5,
        "size": "small",
        "position": "at the top left",
    }


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([3, 3], "Two sheep."),
        ([4, 4, 4], "Three buses."),
        ([5], "An aeroplane."),
        ([1] * 13, "13 persons."),
    ],
)
def test_numbers_and_plurals(labels, sentence):
    row = [instance(label, (10 * k, 0, 10 * k + 5, 5)) for k, label in enumerate(labels)]
    assert describe_scene(row, NAMES).sentences[0] == sentence


def test_behind():
    """A person of 40 x 60 whose lower half a motorbike covers: 20 of its 60 rows lie in the motorbike's box."""
    motorbike = instance(2, (20, 60, 140, 110))
    person = instance(1, (60, 20, 100, 80), without=(60, 60, 100, 80))
    whole = instance(1, (60, 20, 100, 61), (60, 20, 62, 80))
    assert relation(person, motorbike) == ("touches", {"overlap": 0})
    assert relation(whole, motorbike) == ("behind", {"overlap": 33})
    told = describe_scene([instance(1, (0, 0, 5, 5)), whole, motorbike], NAMES)
    assert "Person 1 is behind the motorbike, overlap 33 %." in told.sentences
    assert str(told).startswith("A motorbike and two persons. ")


def test_in_front():
    """A sheep that cuts a hole into the bus behind it."""
    bus, sheep = (
        instance(4, (20, 20, 140, 100), without=(60, 50, 90, 80)),
        instance(3, (60, 50, 90, 80)),
    )
    assert relation(sheep, bus) == ("in front of", {"overlap": 100})


def test_touching_over_a_void_border():
    left, right = instance(4, (10, 40, 80, 100)), instance(3, (83, 40, 120, 100))
    assert relation(right, left) == ("touches", {"overlap": 0})
    assert relation(instance(3, (84, 40, 120, 100)), left) == ("right of", {"distance": 4})


def test_as_much_of_the_one_as_of_the_other_where_boxes_meet():
    """The boxes share 50 x 20 pixels, of which each has half."""
    upper = instance(4, (10, 10, 110, 50), (10, 50, 60, 60))
    lower = instance(3, (60, 50, 110, 100), (60, 40, 61, 41))
    assert relation(lower, upper) == ("touches", {"overlap": 33})


def test_the_same_thing_twice():
    assert relation(instance(3, (20, 20, 60, 60)), instance(4, (20, 20, 62, 62))) == (
        "in the same place as",
        {"overlap": 100},
    )


@pytest.mark.parametrize(
    ("box", "said", "distance"),
    [
        ((5, 50, 30, 70), "left of", 30),
        ((110, 50, 130, 70), "right of", 10),
        ((70, 5, 90, 20), "above", 20),
        ((70, 95, 90, 110), "below", 15),
        ((5, 5, 30, 20), "left of", 36),
    ],
)
def test_where_what_touches_nothing_is(box, said, distance):
    """The last one is 30 pixels to the left and 20 above: 36 away."""
    assert relation(instance(3, box), instance(2, (60, 40, 100, 80))) == (
        said,
        {"distance": distance},
    )


def test_boxes_that_overlap_say_nothing_of_sides():
    """A sheep in the middle of a ring that does not touch it."""
    ring = instance(4, (20, 20, 140, 100), without=(40, 40, 120, 80))
    assert relation(instance(3, (75, 55, 85, 65)), ring) == ("near", {})


def test_what_is_alone_is_placed_by_its_nearest_neighbour_once():
    row = [
        instance(1, (0, 0, 20, 20)),
        instance(2, (30, 0, 49, 20)),
        instance(3, (100, 0, 118, 20)),
    ]
    relations = describe_scene(row, NAMES).graph["relations"]
    assert [(r["subject"], r["relation"], r["object"], r["distance"]) for r in relations] == [
        ("motorbike", "right of", "person", 10),
        ("sheep", "right of", "motorbike", 51),
    ]


@pytest.mark.parametrize("instances", [[], [instance(1)]])
def test_nothing(instances):
    told = describe_scene(instances, NAMES, {"width": 160, "height": 120})
    assert (str(told), told.graph["objects"], told.graph["relations"]) == (
        "There is nothing.",
        [],
        [],
    )
    assert told.graph["image"] == {"width": 160, "height": 120}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 9}, "category 9 of instance 1"),
        ({"category_id": None}, "category None of instance 1"),
        ({"segmentation": None}, "instance 1 "),
        ({"segmentation": [[0, 0, 5, 0, 5, 5]]}, "instance 1 "),
        (
            {"segmentation": encode_rle(torch.ones(1, 60, 80, dtype=torch.bool))[0]},
            "80 x 60, 160 x 120",
        ),
    ],
)
def test_what_cannot_be_described_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        describe_scene([instance(1, (0, 0, 9, 9)), {**instance(2, (0, 0, 9, 9)), **change}], NAMES)
    with pytest.raises(ValueError, match="detections_to_coco"):
        describe_scene([{"boxes": torch.zeros(0, 4), "masks": torch.zeros(0, 9, 9)}], NAMES)


def test_a_score_that_is_no_number_is_none_in_json():
    graphs = [
        json.loads(describe_scene([instance(1, (0, 0, 9, 9), score=score)], NAMES).json)
        for score in (0.5, float("nan"), None)
    ]
    assert [graph["objects"][0].get("score", "not there") for graph in graphs] == [
        0.5,
        None,
        "not there",
    ]


def test_a_wrong_sentence_leads_to_its_failure():
    """A motorbike that is called a person, and a sheep that is not found."""
    motorbike, sheep = (20, 60, 120, 110), (130, 10, 155, 40)
    objects = [instance(2, motorbike), instance(3, sheep)]
    for number, (o, (x1, y1, x2, y2)) in enumerate(
        zip(objects, (motorbike, sheep), strict=True), 1
    ):
        o |= {
            "id": number,
            "image_id": 7,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
    truth = {
        "images": [{"id": 7, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": k, "name": name} for k, name in NAMES.items()],
        "annotations": objects,
    }
    found = [
        instance(1, motorbike, image_id=7, score=0.9),
        instance(3, (0, 0, 9, 9), image_id=7, score=0.2),
    ]
    analysis = analyze(truth, found, score_threshold=0.5)
    described, told = describe_with_errors(analysis, 7)
    assert described["as predicted"].sentences[0] == "A person."
    assert described["as annotated"].sentences[0] == "A motorbike and a sheep."
    failures = told.set_index(["source", "sentence"])["failures"]
    assert (
        failures["as predicted", "A person."] == "class, missed alone"
    )  # and no sheep, which it should have counted
    assert (
        failures["as annotated", "The sheep is small (4 % of the image), at the top right."]
        == "missed alone"
    )
    assert told["why"][0].startswith(
        "Misclassified: the mask of the person of score 0.90 is on a motorbike"
    )
    with pytest.raises(ValueError, match="no image 8"):
        describe_with_errors(analysis, 8)
    _, told = describe_with_errors(analyze(truth, found, score_threshold=0.95), 7)
    assert told["sentence"][0] == "There is nothing."
    assert told["failures"][0] == "missed alone"
    right = analyze(truth, [{**a, "score": 0.9} for a in objects], score_threshold=0.5)
    _, told = describe_with_errors(right, 7)
    assert set(told["failures"]) == {""}
    assert most_telling_images({"wrong": analysis, "right": right}) == [("wrong", 7)]
    assert most_telling_images({"right": right}) == [("right", 7)]


def test_the_command_line_describes_a_prediction_file(devkit, tmp_path, monkeypatch, capsys):
    truth = voc_to_coco(devkit, "val")
    found = [
        {k: a[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.9}
        for a in truth["annotations"]
    ]
    found[0]["category_id"] = 1 + found[0]["category_id"] % 20
    (tmp_path / "found.json").write_text(json.dumps(found))
    first, last = (Path(truth["images"][k]["file_name"]).stem for k in (0, -1))
    asked = [
        "describe",
        "--predictions",
        tmp_path / "found.json",
        "--data",
        devkit,
        "--out",
        tmp_path / "scenes.json",
        "--image",
    ]
    done = vocseg(*asked, first, f"{last}.jpg")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == [
        f"{n}, {s}" for n in (first, last) for s in ("as predicted", "as annotated")
    ]
    assert "[class]" in lines[0]
    assert "[" not in lines[2]
    assert lines[2].split(": ")[1] == lines[3].split(": ")[1]
    scenes = json.loads((tmp_path / "scenes.json").read_text())
    assert list(scenes) == [first, last]
    assert {o["class"] for o in scenes[last]["as annotated"]["objects"]} <= set(CLASS_NAMES)
    done = vocseg(*asked, "nowhere")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr


def test_images_are_asked_for_by_whole_or_last_name():
    names = ["a/x", "b/x", "y.v2"]
    asked = {
        "x": ["a/x", "b/x"],
        "x.jpg": ["a/x", "b/x"],
        "y.v2": ["y.v2"],
        "y.v2.png": ["y.v2"],
        "z": [],
    }
    assert {image: resolve_image_names(image, names) for image in asked} == asked
