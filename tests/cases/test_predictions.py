"""Prediction files name what they are of; nothing to evaluate is an error."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.cli import vocseg
from tests.helpers.coco import coco_content, entry, ground_truth_of
from vocseg_lib.data.coco import read_predictions
from vocseg_lib.study.results import open_files

BOX = (2, 3, 10, 12)


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def ap_of(ground_truth, results):
    """COCO's mask AP in percent, by pycocotools alone."""
    gt, dt = COCO(), COCO()
    for coco, annotations in ((gt, ground_truth["annotations"]), (dt, results)):
        numbered = [
            {**a, "id": k, "area": coco_mask.area(a["segmentation"])}
            for k, a in enumerate(annotations, 1)
        ]
        coco.dataset = {**ground_truth, "annotations": numbered}
        coco.createIndex()
    evaluation = COCOeval(gt, dt, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return 100 * evaluation.stats[0]


def masks_of(devkit, name, image_id):
    """Annotations of an image of a devkit, from its maps alone."""
    paths = (devkit / f"Segmentation{kind}" / f"{name}.png" for kind in ("Object", "Class"))
    objects, classes = (np.array(Image.open(path)) for path in paths)
    for value in sorted({*objects.ravel()} - {0, 255}):
        rle = coco_mask.encode(np.asfortranarray(objects == value, dtype=np.uint8))
        label = int(np.median(classes[objects == value]))
        yield {"image_id": image_id, "category_id": label, "segmentation": rle, "iscrowd": 0}


@pytest.mark.parametrize("name", ["numbers", "stems", "text"])
def test_image_ids_of_ultralytics(case, name):
    folder = case("ultralytics_image_ids")
    names = (folder / "data/ImageSets/Segmentation/val.txt").read_text().split()
    annotations = [a for k, n in enumerate(names, 1) for a in masks_of(folder / "data", n, k)]
    images = [{"id": k, "height": 64, "width": 96} for k in range(1, len(names) + 1)]
    ground_truth = {"images": images, "annotations": annotations}
    ground_truth["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    results = json.loads((folder / f"{name}.json").read_text())
    by_file = [r | {"image_id": names.index(r["file_name"][:-4]) + 1} for r in results]
    out = folder / "metrics.json"
    files = ("--predictions", folder / f"{name}.json", "--data", folder / "data", "--out", out)
    assert vocseg("evaluate", *files, "--resamples", 0).exit_code == 0
    ap = json.loads(out.read_text())["mask_AP"]
    assert ap == pytest.approx(ap_of(ground_truth, by_file)) == pytest.approx(100)


FILES = ("a/10.jpg", "b/2.jpg", "c/x y.v0", "d/007.png")
IDS = (1, 2, 3, 10)


def resolved(tmp_path, results, files=FILES, ids=IDS, header=None):
    """The image ids read from results of ground truth with these files."""
    ground_truth = ground_truth_of(images=len(files))
    for image, name, image_id in zip(ground_truth["images"], files, ids, strict=True):
        image.update(file_name=name, id=image_id)
    entries = [entry(1, 3, BOX, 0.5) | result for result in results]
    content = {"header": header, "detections": entries} if header else entries
    path = write(tmp_path / "results.json", content)
    return [d["image_id"] for d in read_predictions(path, ground_truth)["detections"]]


FORMS = {
    "file names": ([{"image_id": "10.jpg"}, {"image_id": "d/007.png"}], [1, 10]),
    "paths of another machine": ([{"image_id": "C:\\data\\b\\2.jpg"}], [2]),
    "stems": ([{"image_id": "x y.v0"}, {"image_id": "007"}], [3, 10]),
    "another ending": ([{"image_id": "10.png"}, {"image_id": "x y.v0"}], [1, 3]),
    "stems as numbers": ([{"image_id": 7}, {"image_id": 10}], [10, 1]),
    "numbers and text": ([{"image_id": 2}, {"image_id": "x y.v0"}, {"image_id": 10}], [2, 3, 1]),
    "ids": ([{"image_id": 1}, {"image_id": 10}, {"image_id": 3.0}], [1, 10, 3]),
    "ids as text": ([{"image_id": "1"}, {"image_id": " 3 "}], [1, 3]),
    "file_name first": ([{"image_id": 10, "file_name": "10.jpg"}, {"image_id": 10}], [1, 10]),
    "file_name alone": ([{"image_id": None, "file_name": "/home/me/x y.v0"}], [3]),
}


@pytest.mark.parametrize("form", FORMS)
def test_image_ids_in_other_forms(tmp_path, form):
    results, expected = FORMS[form]
    assert resolved(tmp_path, results) == expected


def test_numbers_that_may_be_names_are_reported_once(tmp_path, capsys):
    assert resolved(tmp_path, [{"image_id": 10}, {"image_id": 2}]) == [10, 2]
    assert capsys.readouterr().err.count("10") == 1
    coco = dict(files=("000000000139.jpg", "000000000002.jpg"), ids=(139, 2))
    assert resolved(tmp_path, [{"image_id": 139}, {"image_id": "2"}], **coco) == [139, 2]
    assert not capsys.readouterr().err.count("139")
    with pytest.raises(ValueError, match="10"):  # as text, it is either
        resolved(tmp_path, [{"image_id": "10"}])


def test_one_stem_or_base_name_of_several_files(tmp_path):
    several = dict(files=("a/x.jpg", "b/x.jpg", "b/x.png"), ids=(5, 6, 7))
    files = [
        {"file_name": "b/x.jpg"},
        {"file_name": "x.png"},
        {"image_id": 5, "file_name": "x.jpg"},
    ]
    assert resolved(tmp_path, files, **several) == [6, 7, 5]
    header = {"images": [{"id": 5, "file_name": "x.jpg"}]}
    with pytest.raises(ValueError, match=r"results\.json.*2 images"):  # its ids are its own
        resolved(tmp_path, [{"image_id": 5}], header=header, **several)
    for unknown in ({"file_name": "x.jpg"}, {"image_id": "x"}, {"file_name": "y.jpg"}):
        with pytest.raises(ValueError, match=r"results\.json.*detections\[1\].*(x|y)"):
            resolved(tmp_path, [{"image_id": 5}, unknown], **several)


def test_predictions_of_a_folder_are_held_by_file_name(tmp_path):
    images = [{"id": k, "file_name": name} for k, name in enumerate(sorted(FILES), 1)]
    found = resolved(tmp_path, [{"image_id": k} for k in range(1, 5)], header={"images": images})
    assert found == [1, 2, 3, 10]
    shuffled = [{"id": k, "file_name": name} for k, name in enumerate(FILES[::-1], 1)]
    found = resolved(tmp_path, [{"image_id": k} for k in range(1, 5)], header={"images": shuffled})
    assert found == [10, 3, 2, 1]
    more = [*images, {"id": 5, "file_name": "z.jpg"}]
    assert resolved(tmp_path, [{"image_id": 5}, {"image_id": 1}], header={"images": more}) == [1]
    padded = [{"id": f"{k:03}", "file_name": name} for k, name in enumerate(FILES[::-1], 1)]
    assert resolved(tmp_path, [{"image_id": 1}], header={"images": padded}) == [10]
    with pytest.raises(ValueError, match=r"detections\[0\].*10"):
        resolved(tmp_path, [{"image_id": 10}], header={"images": padded})


def test_predictions_of_a_split_are_of_all_its_images(tmp_path):
    names = ("a/10", "b/2", "c/x y.v0", "d/007")
    images = [
        {"id": k, "name": n, "height": 20, "width": 20} for k, n in zip(IDS, names, strict=True)
    ]
    results = [{"image_id": k} for k in IDS]
    assert resolved(tmp_path, results, header={"images": images}) == [*IDS]
    renumbered = [image | {"id": k} for k, image in zip((10, 3, 2, 1), images, strict=True)]
    assert resolved(tmp_path, results, header={"images": renumbered}) == [10, 3, 2, 1]
    for wrong in (images[:3], [*images[:3], images[3] | {"height": 21}], [images[0], *images[:3]]):
        with pytest.raises(
            ValueError, match=r"results\.json: header|results\.json: the header.*007"
        ):
            resolved(tmp_path, results, header={"images": wrong})


def test_ids_that_are_text_in_ground_truth_and_results(tmp_path):
    content = coco_content(4)
    for ids in (
        ("im0", "im1", "im2"),
        ("000000000008", "9", "10"),
        ("a", 7, "007x"),
        (2**60, 7, 8),
    ):
        for image, image_id in zip(content["images"], ids, strict=True):
            image["id"] = image_id
        for k, a in enumerate(content["annotations"]):
            a["image_id"] = ids[k // 2]
        keys = ("image_id", "category_id", "segmentation")
        results = [{"score": 0.9} | {key: a[key] for key in keys} for a in content["annotations"]]
        files = [write(tmp_path / f"{n}.json", c) for n, c in (("p", results), ("gt", content))]
        (evaluation,) = open_files(files[:1], files[1]).evaluations.values()
        assert evaluation.summary["mask_AP"] == pytest.approx(100)


def test_file_names_that_are_numbers_or_contradict_ids(tmp_path, capsys):
    ground_truth = ground_truth_of(entry(1, 3, BOX))
    for image, name in zip(ground_truth["images"], (7, 8, None), strict=True):
        image["file_name"] = name
    gt = write(tmp_path / "gt.json", ground_truth)
    for result in ({"image_id": 7}, {"image_id": 3, "file_name": 7}, {"file_name": "7.jpg"}):
        path = write(tmp_path / "p.json", [entry(1, 3, BOX, 0.9) | result])
        assert vocseg("describe", "--predictions", path, "--data", gt).exit_code == 0
        (evaluation,) = open_files([path], gt).evaluations.values()
        assert evaluation.summary["mask_AP"] == pytest.approx(100)
    ground_truth["images"][0]["file_name"] = ["7"]
    with pytest.raises(ValueError, match=r"gt\.json.*images\[0\].*file_name"):
        open_files([path], write(gt, ground_truth))
    capsys.readouterr()
    assert resolved(tmp_path, [{"image_id": 1, "file_name": "007.png"}, {"image_id": 1}]) == [10, 1]
    assert "1 detections have another image_id" in capsys.readouterr().err


def test_categories_of_results(tmp_path, capsys):
    ground_truth = ground_truth_of(images=1)
    path = tmp_path / "results.json"

    def read(*categories):
        write(path, [entry(1, 3, BOX, 0.5) | category for category in categories])
        return [d["category_id"] for d in read_predictions(path, ground_truth)["detections"]]

    assert read({"category_id": "3"}, {"category_id": 4}) == [3, 4]
    names = [{"category_id": 14, "category_name": "Person "}, {"category_name": "bird"}]
    assert read(*names) == [15, 3]  # SAHI counts from 0
    assert "1 detections" in capsys.readouterr().err
    assert read({"category_id": 3, "category_name": "3"}) == [3]
    assert read({"category_id": "bird"}) == [3]
    for wrong in ({"category_id": 0}, {"category_id": 91}, {"category_name": "zebra"}):
        with pytest.raises(ValueError, match=r"detections\[1\].*1 aeroplane, 2 bicycle"):
            read({}, wrong)


@pytest.mark.parametrize("score", [90.0, 1.01, -0.5, float("nan"), float("inf"), None, "0.9"])
def test_scores_that_are_none(tmp_path, score):
    with pytest.raises(ValueError, match=rf"detections\[1\].*score.*{score}"):
        resolved(tmp_path, [{}, {"score": score}])


def test_repeated_detections_and_none_at_all_are_reported(tmp_path, capsys):
    gt = write(tmp_path / "gt.json", ground_truth_of(entry(1, 3, BOX)))
    files = "--predictions", tmp_path / "p.json", "--data", gt, "--resamples", 0
    write(tmp_path / "p.json", [entry(1, 3, BOX, 0.9)] * 3)
    done = vocseg("evaluate", *files)
    assert (done.exit_code, "2 detections" in done.stderr) == (0, True)
    assert "100.0" in done.stdout
    write(tmp_path / "p.json", [])
    done = vocseg("evaluate", *files, "--out", tmp_path / "m.json")
    assert (done.exit_code, len(done.stderr.splitlines())) == (0, 1)
    assert json.loads((tmp_path / "m.json").read_text())["mask_AP"] == 0


def test_nothing_to_evaluate(case, tmp_path, monkeypatch):
    folder = case("evaluate_with_nothing_to_judge")
    monkeypatch.chdir(folder)
    files = ("--predictions", "pred.json", "--data", "gt.json")
    content, results = (json.loads((folder / f).read_text()) for f in ("gt.json", "pred.json"))
    write(folder / "pred.json", [r | {"score": 0.9} for r in results])
    crowd = {**results[0], "id": 1, "iscrowd": 1, "area": 660}
    for annotations in ([], [crowd]):
        write(folder / "gt.json", {**content, "annotations": annotations})
        for command in ("evaluate", "failures", "describe"):
            done = vocseg(command, *files)
            assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
            assert "gt.json" in done.stderr
        with pytest.raises(ValueError, match=r"gt\.json"):
            open_files(["pred.json"], "gt.json")
    write(folder / "gt.json", {**content, "annotations": [{**crowd, "iscrowd": 0}]})
    assert vocseg("evaluate", *files).exit_code == 0
    write(folder / "pred.json", results)  # percents
    done = vocseg("evaluate", *files)
    assert (done.exit_code, "90.0" in done.stderr, "[0]" in done.stderr) == (2, True, True)


def test_described_images_have_keys_of_their_own(case, monkeypatch):
    folder = case("file_names_cut_at_the_dot")
    monkeypatch.chdir(folder)
    for name, keys in {
        "stems": [f"{k}.{ending}" for k in range(3) for ending in ("png", "jpg")],
        "annotations": [f"shot.v{k}" for k in range(6)],
        "null": ["image 1"],
        "empty": ["image 1"],
    }.items():
        files = ("--predictions", "pred.json", "--data", f"{name}.json", "--out", "d.json")
        done = vocseg("describe", *files)
        graphs = json.loads((folder / "d.json").read_text())
        assert (done.exit_code, done.stdout.count("as predicted"), len(graphs)) == (0, 6, 6)
        assert list(graphs)[: len(keys)] == keys
    files = ("--predictions", "pred.json", "--data", "stems.json", "--image")
    for asked, count in (("1.png", 1), ("1", 2), ("image 1", 0)):
        assert vocseg("describe", *files, asked).stdout.count("as predicted") == count


@pytest.mark.parametrize("reader", ["head", "nothing"])
def test_a_closed_pipe_is_no_error(tmp_path, reader):
    gt = write(
        tmp_path / "gt.json",
        ground_truth_of(*[entry(k, 3, BOX) for k in range(1, 150)], images=150),
    )
    predictions = write(tmp_path / "p.json", [entry(1, 3, BOX, 0.9)])
    command = [sys.executable, "-m", "vocseg_lib", "describe", "--predictions", predictions]
    process = subprocess.Popen(
        [*command, "--data", gt], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if reader == "head":
        process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()
