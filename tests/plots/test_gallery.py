"""The gallery: who only this model, what is drawn, and the page in a browser."""

import json
import re
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.shapes import SIDE, mask_of, shape, truth
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.failures.analysis import analyze
from vocseg_lib.failures.tables import CASE_TYPES
from vocseg_lib.plots.gallery import BLAMED, LOST, TARGET, Gallery
from vocseg_lib.plots.gallery_page import export_page, outline

LEFT, RIGHT, FAR = mask_of((5, 5, 20, 20)), mask_of((25, 5, 20, 20)), mask_of((5, 40, 12, 12))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (1, 2, 3):
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 * number, np.uint8)).save(
            folder / f"{number}.jpg"
        )
    return folder


@pytest.fixture
def analyses():
    """The first model unites two objects, ghosts, and finds nothing where nothing is; the second one misses one object."""
    content = truth(
        shape(LEFT), shape(RIGHT), shape(LEFT, 13, image=2), shape(FAR, image=2), images=3
    )
    everything = torch.ones(SIDE, SIDE, dtype=torch.bool)
    one = [
        shape(LEFT | RIGHT, 15, 0.9, uncropped=everything),
        shape(LEFT, 13, 0.9, image=2),
        shape(LEFT, 13, 0.8, image=2),
        shape(FAR, 15, 0.7, image=2),
        shape(FAR, 15, 0.6, image=3),
    ]
    other = [shape(LEFT, 15, 0.9), shape(RIGHT, 15, 0.9), shape(LEFT, 13, 0.9, image=2)]
    return {"YOLACT": analyze(content, one), "Mask R-CNN": analyze(content, other)}


def maps(image_id, box, label):
    return [("a map", torch.rand(6, 7)), ("another", torch.zeros(28, 28))]


def test_cases_of_both_models_and_who_failed_alone(analyses, pictures):
    gallery = Gallery(analyses, pictures)
    found = gallery.cases.set_index(["model", "type"])["only this model"]
    assert found.to_dict() == {
        ("YOLACT", "localization failure"): True,
        ("YOLACT", "duplicate"): True,
        ("YOLACT", "background"): True,
        ("Mask R-CNN", "missed alone"): True,
    }
    assert not Gallery({"YOLACT": analyses["YOLACT"]}, pictures).cases["only this model"].any()
    both = Gallery({"a": analyses["YOLACT"], "b": analyses["YOLACT"]}, pictures).cases
    assert both.set_index("type")["only this model"]["background"].tolist() == [False, False]
    assert gallery.select(model="YOLACT", type="duplicate", **{"class": "horse"})[
        "image_id"
    ].tolist() == [2]
    assert gallery.select(size="large").empty


def test_what_is_drawn(analyses, pictures):
    gallery = Gallery(analyses, pictures, {"YOLACT": maps})
    case = gallery.select(type="localization failure").iloc[0]
    assert [layer.color for layer in gallery.truth_layers(case)] == [TARGET, TARGET]
    layers = gallery.found_layers(case, "YOLACT")
    assert [(layer.color, layer.dotted) for layer in layers if layer.strong] == [(BLAMED, False)]
    assert any(
        layer.dotted and layer.mask.all() for layer in layers
    )  # what there was before the crop
    figure = gallery.draw(case)
    texts = [text.get_text() for text in figure.findobj(plt.Text)]
    assert any(
        "which only this model, on 1" in text and "covers 2 objects" in text for text in texts
    )
    for title in ("image", "ground truth", "YOLACT", "Mask R-CNN", "YOLACT:\na map", "person 0.90"):
        assert title in texts
    missed = gallery.select(type="missed alone").iloc[0]
    (layer,) = (
        layer
        for layer in gallery.found_layers(missed, "Mask R-CNN")
        if layer.text.startswith("missed")
    )
    assert (layer.color, layer.dotted, layer.text) == (LOST, True, "missed person")
    assert not any(
        layer.text.startswith("missed") for layer in gallery.found_layers(missed, "YOLACT")
    )
    for kind in CASE_TYPES:
        assert f"{kind}: the worst" in gallery.sheet(kind).get_suptitle()


def test_pictures_that_are_not_there_or_others_are_named(analyses, pictures, devkit, tmp_path):
    gallery = Gallery(analyses, pictures)
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(pictures / "1.jpg")
    with pytest.raises(ValueError, match=r"1\.jpg has \(5, 5\)"):
        gallery.picture(1)
    (pictures / "2.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"2\.jpg cannot be read"):
        gallery.picture(2)
    (pictures / "3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"3\.jpg"):
        gallery.picture(3)
    assert (
        "Not readable, and left out: 1.jpg, 2.jpg, 3.jpg"
        in export_page(gallery, tmp_path / "page.html")[1]
    )
    figure = gallery.sheet("localization failure")  # drawn all the same
    assert any("1.jpg" in text.get_text() for text in figure.findobj(plt.Text))
    nameless = truth(shape(LEFT))
    del nameless["images"][0]["file_name"]
    with pytest.raises(ValueError, match="image 1 of the ground truth has no file_name"):
        Gallery({"x": analyze(nameless, [])}, pictures)
    content = voc_to_coco(devkit, "val")
    assert Gallery({"x": analyze(content, [])}, devkit.parents[1]).picture(1).ndim == 3


def test_outlines_are_the_masks_edges():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    points = {tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", outline(mask))}
    xs, ys = zip(*points, strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == (2, 7, 1, 4)
    assert outline(np.zeros((3, 3), bool)) == ""
    assert outline(np.ones((3, 3), bool)).count("M") == 1
    ring = np.ones((9, 9), bool)
    ring[3:6, 3:6] = False
    assert outline(ring).count("M") == 2


def test_page_is_one_file_within_its_limit(analyses, pictures, tmp_path):
    gallery = Gallery(analyses, pictures, {"YOLACT": maps})
    page = export_page(gallery, tmp_path / "page.html")[0].read_text()
    assert "http" not in page.replace(
        "http://www.w3.org/2000/svg", ""
    )  # a name, no address that is fetched
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert len(data["cases"]) == len(gallery.cases)
    assert data["cases"][0]["type"] == "localization failure"
    assert data["filters"]["type"] == [
        "localization failure",
        "missed alone",
        "duplicate",
        "background",
    ]
    assert len(data["cases"][0]["parts"]) == 2
    least = len(json.dumps(data["cases"][0])) + len(data["images"]["1"]["src"])
    small, _ = export_page(gallery, tmp_path / "small.html", most_bytes=least)
    assert "The worst 1 of 4 failures" in small.read_text()
    assert small.stat().st_size < len(page) - len(json.dumps(data["cases"][1]))


@pytest.fixture
def browser():
    """Headless Chromium; skips when it is not there."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip(
            "no chromium and chromedriver to open the page with (Debian: chromium chromium-driver)"
        )
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "no-first-run",
        "disable-sync",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield driver
    driver.quit()


def test_page_opens_and_filters_in_a_browser(analyses, pictures, tmp_path, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    def articles():
        return [
            article.find_element(By.TAG_NAME, "h2").text
            for article in browser.find_elements(By.TAG_NAME, "article")
        ]

    gallery = Gallery(analyses, pictures, {"YOLACT": maps})
    browser.get(export_page(gallery, tmp_path / "page.html")[0].as_uri())
    count = browser.find_element(By.ID, "count")
    assert count.text == "4 of 4 cases"
    assert articles()[0] == "localization failure: YOLACT, which only this model, on 1"
    first = browser.find_element(By.TAG_NAME, "article")
    assert len(first.find_elements(By.CSS_SELECTOR, ".panels svg")) == 4
    assert all(
        browser.execute_script(
            "return [...arguments[0].querySelectorAll('img')].map((i) => i.complete && i.naturalWidth > 0)",
            first,
        )
    )
    assert first.find_element(By.CSS_SELECTOR, "svg path").rect["width"] > 0
    model = Select(browser.find_element(By.NAME, "model"))
    model.select_by_value("Mask R-CNN")
    assert count.text == "1 of 4 cases"
    assert articles() == ["missed alone: Mask R-CNN, which only this model, on 2"]
    Select(browser.find_element(By.NAME, "type")).select_by_value("duplicate")
    assert (count.text, articles()) == ("0 of 4 cases", [])
    model.select_by_value("all")
    browser.find_element(By.ID, "alone").click()
    assert count.text == "1 of 4 cases"
    assert browser.get_log("browser") == []
