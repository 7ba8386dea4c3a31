import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import shapes
from tests.helpers.shapes import FAR, LEFT, RIGHT, analysis_of, ground_truth, shape
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.failures.tables import CASE_TYPES
from vocseg_lib.plots.gallery import ROLE_COLORS, Gallery
from vocseg_lib.plots.gallery_page import export_page, outline

HORSE = 13


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (shapes.SIDE, shapes.SIDE)).save(folder / f"{number}.jpg")
    return folder


@pytest.fixture
def analyses():
    """First: one mask on two objects, a duplicate, a background error. Second: a missed object."""
    horse, far = shape(LEFT, HORSE, image=2), shape(FAR, image=2)
    content = ground_truth(shape(LEFT), shape(RIGHT), horse, far, images=3)
    first = [
        shape(LEFT | RIGHT, 15, 0.9, uncropped=shapes.EVERYWHERE),
        *(shape(LEFT, HORSE, score, image=2) for score in (0.9, 0.8)),
        *(shape(FAR, 15, score, image=image) for score, image in ((0.7, 2), (0.6, 3))),
    ]
    second = [shape(LEFT, 15, 0.9), shape(RIGHT, 15, 0.9), shape(LEFT, HORSE, 0.9, image=2)]
    return {"YOLACT": analysis_of(content, first), "Mask R-CNN": analysis_of(content, second)}


@pytest.fixture
def gallery(analyses, pictures):
    def maps(image_id, box, label):
        return [("a map", torch.rand(6, 7)), ("another", torch.zeros(28, 28))]

    return Gallery(analyses, pictures, {"YOLACT": maps})


def test_cases_of_only_one_model(gallery, analyses, pictures):
    cases = {"YOLACT": {"localization failure", "duplicate", "background"}}
    cases["Mask R-CNN"] = {"missed alone"}
    assert gallery.cases.groupby("model")["type"].agg(set).to_dict() == cases
    assert gallery.cases["only this model"].all()
    assert not Gallery({"YOLACT": analyses["YOLACT"]}, pictures).cases["only this model"].any()
    both = Gallery(dict.fromkeys("ab", analyses["YOLACT"]), pictures).cases
    assert not both[both["type"] == "background"]["only this model"].any()
    selected = gallery.select(model="YOLACT", type="duplicate", **{"class": "horse"})
    assert selected["image_id"].tolist() == [2]
    assert gallery.select(size="large").empty


def test_what_is_plotted(gallery):
    case = gallery.select(type="localization failure").iloc[0]
    targets = [layer.color for layer in gallery.ground_truth_layers(case)]
    assert targets == [ROLE_COLORS["target"]] * 2
    layers = gallery.detection_layers(case, "YOLACT")
    strong = [(layer.color, layer.dotted) for layer in layers if layer.strong]
    assert strong == [(ROLE_COLORS["error"], False)]
    assert any(layer.dotted and layer.mask.all() for layer in layers)  # the mask before the crop
    texts = [text.get_text() for text in gallery.draw(case).findobj(plt.Text)]
    assert {"image", "ground truth", "Mask R-CNN", "YOLACT:\na map", "person 0.90"} <= set(texts)
    assert any("(only this model)" in text and gallery.name(1) in text for text in texts)
    missed = gallery.select(type="missed alone").iloc[0]
    layer = gallery.detection_layers(missed, "Mask R-CNN")[0]
    assert (layer.color, layer.dotted, layer.text) == (ROLE_COLORS["missed"], True, "missed person")
    assert "missed person" not in [x.text for x in gallery.detection_layers(missed, "YOLACT")]
    for kind in CASE_TYPES:
        assert kind in gallery.sheet(kind).get_suptitle()
    assert len(gallery.side_by_side(case).axes) == 4


def test_unreadable_pictures_are_reported(gallery, pictures, devkit, tmp_path):
    Image.new("RGB", (5, 5)).save(pictures / "1.jpg")
    (pictures / "2.jpg").write_text("not a picture")
    (pictures / "3.jpg").unlink()
    for image_id, error in ((1, ValueError), (2, ValueError), (3, FileNotFoundError)):
        with pytest.raises(error, match=rf"{image_id}\.jpg"):
            gallery.picture(image_id)
    with pytest.raises(ValueError, match=r"1\.jpg, 2\.jpg, 3\.jpg"):
        export_page(gallery, tmp_path / "page.html")
    Image.new("RGB", (shapes.SIDE, shapes.SIDE)).save(pictures / "1.jpg")
    assert "2.jpg, 3.jpg" in export_page(gallery, tmp_path / "page.html")[1]
    Image.new("RGB", (5, 5)).save(pictures / "1.jpg")
    figure = gallery.sheet("localization failure")
    assert any("1.jpg" in text.get_text() for text in figure.findobj(plt.Text))
    for name in ("x" * 300, "x\0"):
        gallery.images[3]["file_name"] = name
        with pytest.raises(FileNotFoundError, match=r"x\0? is missing"):
            gallery.picture(3)
    content = ground_truth(shape(LEFT))
    del content["images"][0]["file_name"]
    with pytest.raises(ValueError, match="file_name"):
        Gallery({"x": analysis_of(content, [])}, pictures)
    content = voc_to_coco(devkit, "val")
    assert Gallery({"x": analysis_of(content, [])}, devkit.parents[1]).picture(1).ndim == 3


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("orientation", [3, 6])
def test_pictures_are_turned_as_the_ground_truth_is(tmp_path, stored, orientation):
    """Sizes tell for orientation 6; for 3, those of another picture do."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    content = ground_truth(images=2)
    for image, values, exif in zip(content["images"], pixels, (orientation, 8), strict=True):
        tag = Image.Exif()
        tag[0x0112] = exif
        Image.fromarray(values).save(tmp_path / f"{image['id']}.png", exif=tag)
        image["file_name"] = f"elsewhere/{image['id']}.png"  # a path of another machine
        turned = exif == 6 or exif == 8
        image["height"], image["width"] = (8, 6) if turned and not stored else (6, 8)
    picture = Gallery({"x": analysis_of(content, [])}, tmp_path).picture(content["images"][0]["id"])
    expected = np.rot90(pixels[0], {3: 2, 6: -1}[orientation]) if not stored else pixels[0]
    assert (picture == expected).all()


def test_outlines_are_the_masks_edges():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    points = {tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", outline(mask))}
    xs, ys = zip(*points, strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == (2, 7, 1, 4)
    ring = np.ones((9, 9), bool)
    ring[3:6, 3:6] = False
    paths = [outline(np.zeros((3, 3), bool)), outline(np.ones((3, 3), bool)), outline(ring)]
    assert [path.count("M") for path in paths] == [0, 1, 2]


def test_page_is_one_file_within_its_limit(gallery, tmp_path):
    page = export_page(gallery, tmp_path / "page.html")[0].read_text()
    # The only address is a namespace, which is not fetched.
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert len(data["cases"]) == len(gallery.cases)
    types = ["localization failure", "missed alone", "duplicate", "background"]
    assert data["filters"]["type"] == types == [case["type"] for case in data["cases"]]
    assert len(data["cases"][0]["mask_terms"]) == 2
    limit = len(json.dumps(data["cases"][0])) + len(data["images"]["1"]["src"])
    small, summary = export_page(gallery, tmp_path / "small.html", max_bytes=limit)
    assert "worst 1 of 4" in summary
    assert small.stat().st_size < len(page) - len(json.dumps(data["cases"][1]))


def test_page_opens_and_filters_in_a_browser(gallery, tmp_path, browser):
    def elements(selector):
        return browser.find_elements("css selector", selector)

    def shown():
        return [element.text for element in elements("#count, article h2")[:2]]

    browser.get(export_page(gallery, tmp_path / "page.html")[0].as_uri())
    assert shown() == ["4 of 4 cases", "localization failure: YOLACT (only this model), 1"]
    assert len(elements("article:first-of-type .panels svg")) == 4
    assert elements("article svg path")[0].rect["width"] > 0
    images = elements("article:first-of-type img")
    assert {image.get_property("naturalWidth") > 0 for image in images} == {True}
    # Select models and types, then the cases of one model only.
    elements("[name=model] [value='Mask R-CNN']")[0].click()
    assert shown() == ["1 of 4 cases", "missed alone: Mask R-CNN (only this model), 2"]
    elements("[name=type] [value=duplicate]")[0].click()
    assert shown() == ["0 of 4 cases"]
    elements("[name=model] [value=all]")[0].click()
    elements("#only")[0].click()
    assert shown()[0] == "1 of 4 cases"
    assert browser.get_log("browser") == []
