"""What exporters write is mended, passed over or refused, and reported by id and image."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.coco import HEIGHT, WIDTH, coco_content
from vocseg_lib.data.coco import read_coco
from vocseg_lib.data.coco_cleaning import clean_ground_truth
from vocseg_lib.data.coco_validation import validate_ground_truth, validate_results
from vocseg_lib.metrics.coco_eval import evaluate


@pytest.mark.parametrize(
    ("field", "value", "kept", "crowds", "reported"),
    [
        *(("iscrowd", value, 20, 1, "") for value in (1, True, 1.0)),
        *(("iscrowd", value, 20, 1, "text") for value in ("1", "true", "True")),
        *(("iscrowd", value, 20, 0, "") for value in (0, False, None, float("nan"))),
        *(("iscrowd", value, 20, 0, "text") for value in ("0", "false")),
        ("iscrowd", "perhaps", 19, 0, "perhaps"),
        *(("area", value, 20, 0, "area") for value in (None, "much", -3, 0, float("nan"))),
        ("bbox", None, 20, 0, ""),
        *(("bbox", value, 20, 0, "bbox") for value in ([1, 2], [0, 0, 0, 0], "box", [1, 2, -1, 1])),
        *(("segmentation", value, 19, 0, "no mask") for value in (None, [], {}, "")),
        *(("segmentation", [value], 19, 0, "corners") for value in ([], [1, 1, 9, 9], None)),
        ("segmentation", {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}, 19, 0, "size"),
        ("segmentation", [[500, 1, 600, 1, 600, 9]], 19, 0, "no pixel"),
        *(("image_id", value, 19, 0, "images") for value in (99, None, [2], "two", True)),
        *(("category_id", value, 19, 0, "categories") for value in (99, None, {}, "cat")),
        *((field, "2", 20, 0, "text") for field in ("image_id", "category_id")),
    ],
)
def test_an_odd_field_is_mended_or_its_annotation_passed_over(field, value, kept, crowds, reported):
    content = coco_content()
    content["annotations"][3][field] = value
    before = copy.deepcopy(content)
    cleaned, report = clean_ground_truth(content, to_devkit=reported == "no pixel")
    assert repr(content) == repr(before)
    assert (report.objects, report.crowds) == (kept - crowds, crowds)
    assert len(cleaned["annotations"]) == kept
    assert [bad.id for bad in report.passed_over] == [4] * (20 - kept)
    text = "\n".join(report.lines)
    assert reported in text if reported else not text
    assert not reported or "annotation 4 of" in text or text.endswith(": annotation 4")
    if kept == 20:
        annotation, (*_, w, h) = cleaned["annotations"][3], coco_content()["annotations"][3]["bbox"]
        box = coco_mask.toBbox(annotation["segmentation"]).tolist()
        assert (annotation["area"], annotation["bbox"]) == (w * h, box)


@pytest.mark.parametrize(
    ("count", "bad", "stops"), [(10, 1, 0), (20, 2, 1), (100, 5, 0), (100, 6, 1), (100, 12, 1)]
)
def test_up_to_five_percent_are_passed_over(count, bad, stops):
    content = coco_content(count)
    for annotation in content["annotations"][:bad]:
        annotation["segmentation"] = [[1, 1, 2, 2]]
    if not stops:
        assert clean_ground_truth(content)[1].objects == count - bad
        return
    with pytest.raises(ValueError, match=f"{bad} of {count}") as error:
        clean_ground_truth(content)
    listed = str(error.value).splitlines()[1:]
    assert [int(line.split()[1]) for line in listed[:10]] == [*range(1, min(bad, 10) + 1)]
    assert len(listed) == min(bad, 11)


def boxes(form):
    return lambda a: {"bbox": [float(v) for v in form(*a["bbox"])]}


def rows(a):
    x, y, w, h = a["bbox"]
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    counts = coco_mask.encode(np.asfortranarray(mask.T))["counts"].decode()
    return {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (boxes(lambda x, y, w, h: (x, y, x + w, y + h)), ["bbox", "x1 y1 x2 y2 in pixels"]),
        (boxes(lambda x, y, w, h: (x + w / 2, y + h / 2, w, h)), ["bbox", "center", "pixels"]),
        (boxes(lambda x, y, w, h: (x / 96, y / 64, w / 96, h / 64)), ["bbox", "in 0..1"]),
        (boxes(lambda x, y, w, h: (x / 96, y / 64, (x + w) / 96, (y + h) / 64)), ["x1", "0..1"]),
        (boxes(lambda x, y, w, h: (y, x, h, w)), ["bbox", "swapped"]),
        (boxes(lambda x, y, w, h: (y, x, y + h, x + w)), ["bbox", "y1 x1 y2 x2"]),
        (boxes(lambda x, y, w, h: (2 * x, 2 * y, 2 * w, 2 * h)), ["bbox", "0.5 times"]),
        (boxes(lambda *_: (70, 50, 20, 9)), ["bbox"]),
        (lambda a: {"area": a["area"] / 100_000}, ["area"]),
        (lambda a: {"segmentation": [[v / 2 for v in a["segmentation"][0]]]}, ["0.5 times"]),
        # These are no contradiction.
        (boxes(lambda x, y, w, h: (x, y, w - 1, h - 1)), []),  # last pixel minus first
        (boxes(lambda x, y, w, h: (x - 2, y - 3, w + 5, h + 5)), []),  # loose
        (boxes(lambda x, y, w, h: (x, y, 2 * w, h)), []),  # with a hidden part
        (boxes(lambda x, y, w, h: (x, y, w, h)), []),
        (lambda a: {"area": None}, ["computed"]),
    ],
)
def test_boxes_and_areas_that_do_not_fit_their_masks_are_reported(change, words):
    _, report = clean_ground_truth(coco_content(40, change))
    assert len(report.notes) == (len(words) > 0)
    assert all(word in report.notes[0] for word in [*words, " 1, 2, 3"] if words)
    assert report.objects == 40


@pytest.mark.parametrize(
    ("form", "notes"),
    [
        (lambda x, y, w, h: (x, y, w, h), 0),
        (lambda x, y, w, h: (x - 30, y, w + 30, h), 0),
        (lambda x, y, w, h: (x + 60, y + 30, x + 60 + w, y + 30 + h), 1),
        (lambda x, y, w, h: (x / 96, y / 64, w / 96, h / 64), 1),
    ],
)
def test_boxes_without_masks_have_to_be_in_their_images(form, notes):
    content = coco_content(20, lambda a: {"segmentation": [], **boxes(form)(a)})
    cleaned, report = clean_ground_truth(content)
    assert (len(report.notes), report.objects) == (notes, 20)
    given, kept = ([a["bbox"] for a in c["annotations"]] for c in (content, cleaned))
    assert kept == given


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rows, "rows"),
        (lambda a: {"segmentation": [[v / 96 for v in a["segmentation"][0]]]}, "0..1"),
        (lambda a: {"segmentation": [[v + 300 for v in a["segmentation"][0]]]}, "no pixel"),
        (lambda a: {"iscrowd": "1"}, "--crowds-as-objects"),
    ],
)
def test_content_that_would_be_lost_is_refused(change, words):
    with pytest.raises(ValueError, match="20") as error:
        clean_ground_truth(coco_content(20, change))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p,
        lambda p: [p],
        lambda p: [[*zip(p[::2], p[1::2], strict=True)]],
        lambda p: [*zip(p[::2], p[1::2], strict=True)],
        lambda p: [[1, 1], p, [2, 2, 3, 3]],
    ],
)
def test_polygons_in_other_lists_are_the_same_masks(change):
    odd = coco_content(20, lambda a: {"segmentation": change(a["segmentation"][0])})
    odd = json.loads(json.dumps(odd))
    given = COCO()
    given.dataset = coco_content()
    given.createIndex()
    cleaned, report = clean_ground_truth(odd)
    for annotation in cleaned["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        assert np.array_equal(mask, given.annToMask(given.anns[annotation["id"]]))
    assert len(report.notes) == (change([1, 2]) != [[1, 2]])


@pytest.mark.parametrize(
    ("categories", "classes"),
    [
        ([(0, " Background ", ""), (1, "cat", "x"), (2, "dog", "x")], ["cat", "dog"]),
        ([(1, "cat", "x"), (2, "dog", "x"), (3, "__IGNORE__", "x")], ["cat", "dog"]),
        ([(0, "pets", None), (1, "cat", "pets"), (2, "dog", "pets")], ["cat", "dog"]),
        ([(9, "pets", "none"), (1, "cat", "pets"), (2, "dog", "pets")], ["cat", "dog"]),
        # Unused classes keep their number, also one that is its own parent or has children in use.
        ([(1, "cat", "x"), (2, "dog", "x"), (7, "eel", "x")], ["cat", "dog", "eel"]),
        ([(0, "p", ""), (1, "cat", "p"), (2, "dog", "p"), (3, "p", "p")], ["cat", "dog", "p"]),
        ([(1, "cat", "none"), (2, "dog", "cat")], ["cat", "dog"]),
        ([(1, "cat", "x"), (1, "cat", "x"), ("2", "dog", "x")], ["cat", "dog"]),
        # Annotations of a background category are background.
        ([(1, "background", "x"), (2, "dog", "x")], ["dog"]),
    ],
)
def test_categories_of_other_tools(categories, classes):
    content = coco_content()
    content["categories"] = [
        {"id": i, "name": name, "supercategory": parent} for i, name, parent in categories
    ]
    cleaned, report = clean_ground_truth(content)
    assert [category["name"] for category in cleaned["categories"]] == classes
    assert report.objects == 10 * len({"cat", "dog"} & {*classes})
    assert [bad.kind for bad in report.passed_over] == ["background"] * (20 - report.objects)
    ids = {category["id"] for category in cleaned["categories"]}
    assert {annotation["category_id"] for annotation in cleaned["annotations"]} <= ids
    # Detections of a category that is left out count as little as for pycocotools.
    result = {**cleaned["annotations"][0], "score": 1.0}
    others = [result | {"category_id": category["id"]} for category, _ in report.left_out]
    assert validate_results(cleaned, [result, *others]) == [result]


@pytest.mark.parametrize("names", [("cat", "Cat"), ("big cat", "big  cat")])
def test_names_equal_but_for_case_or_blanks_are_refused_at_import(tmp_path, names):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(coco_content(categories=names)))
    assert read_coco(path)[1].lines == []
    with pytest.raises(ValueError, match=r"labels\.json") as error:
        read_coco(path, to_devkit=True)
    assert all(repr(name) in str(error.value) for name in names)


@pytest.mark.parametrize("name", [None, "", " "])
def test_an_import_needs_file_names(name):
    content = coco_content()
    content["images"][1]["file_name"] = name
    assert clean_ground_truth(content)[1].lines == []
    with pytest.raises(ValueError, match=r"images\[1\] has no file_name"):
        clean_ground_truth(content, to_devkit=True)


def test_text_ids_of_images_are_numbered():
    content, expected = coco_content(), clean_ground_truth(coco_content())[0]
    for key, entries in (("id", content["images"]), ("image_id", content["annotations"])):
        for entry in entries:
            entry[key] = f"photo {entry[key]}"
    cleaned, report = clean_ground_truth(content)
    assert [i.pop("text_id") for i in cleaned["images"]] == [i["id"] for i in content["images"]]
    assert cleaned == expected
    assert len(report.notes) == 1
    content["images"][0]["id"] = content["images"][1]["id"]
    with pytest.raises(ValueError, match="photo 2"):
        clean_ground_truth(content)


def test_repeated_objects_and_ids():
    content = coco_content(20, lambda a: {"id": 5})
    content["annotations"] += [{**a, "iscrowd": 0} for a in content["annotations"][:3]]
    cleaned, report = clean_ground_truth(content, to_devkit=True)
    assert [a["id"] for a in cleaned["annotations"]] == list(range(1, 21))
    assert (report.annotations, report.objects, report.duplicates) == (23, 20, 3)
    assert len(report.notes) == 2


def test_ap_of_a_cleaned_file_is_pycocotools_own_of_its_good_annotations():
    content = coco_content(40, lambda a: {"iscrowd": int(a["id"] == 7)})
    rng = np.random.default_rng(1)
    shifts = rng.integers(0, 6, 40).tolist()
    results = [
        {k: a[k] for k in ("image_id", "category_id")}
        | {"score": float(rng.random()), "bbox": [a["bbox"][0] + s, *a["bbox"][1:]]}
        | {"segmentation": [[v + s * (i % 2 == 0) for i, v in enumerate(a["segmentation"][0])]]}
        for a, s in zip(content["annotations"], shifts, strict=True)
    ]
    # Objects that are listed twice, or have no pixel, count as in pycocotools.
    empty = {"segmentation": [[90, 90, 95, 90, 95, 95]], "bbox": [90, 90, 5, 5], "area": 12}
    content["annotations"] += [
        {**content["annotations"][k], "id": 50 + k, **more} for k, more in ((3, {}), (4, empty))
    ]
    good = COCO()
    good.dataset = copy.deepcopy(content)
    good.createIndex()
    odd = [{**content["annotations"][k], "id": 100 + k} for k in range(2)]
    odd[0]["segmentation"], odd[1]["image_id"] = [[1, 1, 5, 5]], 1000
    for annotation in content["annotations"]:
        annotation |= {"iscrowd": str(annotation["iscrowd"]), "area": str(annotation["area"])}
    content["annotations"] += odd
    content["categories"].append({"id": 0, "name": "_background_"})
    cleaned, _ = clean_ground_truth(content)
    metrics = evaluate(cleaned, validate_results(cleaned, copy.deepcopy(results))).table
    for kind, title in (("bbox", "box"), ("segm", "mask")):
        reference = COCOeval(good, good.loadRes(copy.deepcopy(results)), kind)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
        row = metrics.query(f"kind == '{title}' and `class` == 'all' and metric == 'AP'")
        assert 0 < row["value"].item() == pytest.approx(100 * reference.stats[0])


def test_iscrowd_as_text_is_no_valid_ground_truth():
    content = coco_content(20, lambda a: {"iscrowd": "0"})
    with pytest.raises(ValueError, match=r"annotations\[0\].*iscrowd '0'"):
        validate_ground_truth(content)
