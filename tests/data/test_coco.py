import json

import pytest

from tests.helpers.coco import HEIGHT, WIDTH, coco_content, entry, ground_truth_of
from vocseg_lib.data.coco import image_keys, read_coco, read_predictions
from vocseg_lib.data.coco_validation import validate_ground_truth
from vocseg_lib.study.cli.options import resolve_image_names
from vocseg_lib.utils.files import write_json


def test_prediction_files_are_validated_where_they_are_read(tmp_path):
    ground_truth = ground_truth_of(images=1)
    results = [entry(1, 3, (5, 5, 9, 9), score=0.9)] * 2
    image = {"id": 1, "name": "1", "height": 20, "width": 20}
    path = tmp_path / "predictions.json"

    def read(detections=results, **header):
        path.write_text(json.dumps({"header": header, "detections": detections}))
        return read_predictions(path, ground_truth)

    assert read(images=[image]) == {"header": {"images": [image]}, "detections": results}
    assert read() == {"header": {}, "detections": results}
    for header in ({**image, "name": "b"}, {**image, "id": [1]}, {"id": 1}, 1):
        with pytest.raises(ValueError, match=r"predictions\.json"):
            read(images=[header])
    with pytest.raises(ValueError, match=r"predictions\.json.*detections\[1\]"):
        read([results[0], {**results[1], "image_id": 8}])


def in_other_forms(x, y, w, h):
    yield "x1 y1 x2 y2", [x, y, x + w, y + h]
    yield "0..1", [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
    yield "center", [x + w / 2, y + h / 2, w, h]
    yield "", [x, y, w, h]


def test_boxes_of_results_in_another_form_are_reported(tmp_path, capsys):
    ground_truth, path = validate_ground_truth(coco_content(20)), tmp_path / "p.json"
    for k, (form, _) in enumerate(in_other_forms(1, 2, 3, 4)):
        results = [
            {key: a[key] for key in ("image_id", "category_id", "segmentation")}
            | {"score": 0.9, "bbox": [*in_other_forms(*a["bbox"])][k][1]}
            for a in ground_truth["annotations"]
        ]
        write_json(path, results)
        read_predictions(path, ground_truth)
        assert (form in (note := capsys.readouterr().err), bool(note)) == (True, bool(form))
        for result in results:
            del result["segmentation"]
        write_json(path, results)
        read_predictions(path, ground_truth)
        assert ("below a pixel" in capsys.readouterr().err) == bool(form)


def test_a_file_with_its_results_under_another_name(tmp_path):
    ground_truth, path = ground_truth_of(images=1), tmp_path / "p.json"
    for name in ("predictions", "results", "annotations"):
        write_json(path, {name: [entry(1, 3, (2, 3, 10, 12), 0.9)]})
        with pytest.raises(ValueError, match=rf"p\.json.*{name}"):
            read_predictions(path, ground_truth)


def test_image_names():
    files = ("a/x.jpg", "b/x.png", "y.v2", "0.jpg", "0.png", "007.jpg", None, "")
    keys = image_keys([{"id": k, "file_name": name} for k, name in enumerate(files, 100)])
    names = ["a/x", "b/x", "y.v2", "0.jpg", "0.png", "007", "image 106", "image 107"]
    assert [*keys] == names
    assert [image["id"] for image in keys.values()] == [*range(100, 108)]
    expected = {"x": names[:2], "x.gif": names[:2], "x.jpg": names[:1], "a/x": names[:1]}
    expected |= {"y.v2": ["y.v2"], "y.v2.png": ["y.v2"], "0": names[3:5], "0.png": ["0.png"]}
    expected |= {"7": ["007"], "106": ["image 106"], "z": [], "": []}
    assert {name: resolve_image_names(name, keys) for name in expected} == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_files_with_and_without_a_byte_order_mark(tmp_path, encoding):
    path, content = tmp_path / "labels.json", coco_content(categories=("Käse", "犬"))
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert [c["name"] for c in read_coco(path)[0]["categories"]] == ["Käse", "犬"]
    path.write_text(json.dumps(content, ensure_ascii=False).replace("犬", ""), encoding="latin-1")
    with pytest.raises(ValueError, match=r"labels\.json"):
        read_coco(path)
