"""The page docs/touch in a browser."""

import base64
import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tools import build_touch
from vocseg_lib.data import synthetic
from vocseg_lib.data.image_files import read_picture
from vocseg_lib.study.run import load_model

LEAST_SCORE = 1e-3
RUNTIME = "runtime_wasm.js"
IN_PAGE = """const [source, done] = arguments;
(async () => {
  const picture = new Image(); picture.src = source; await picture.decode();
  await show(picture, "test");
  const { width, height } = state.pixels;
  const pixels = (v, i) => v * (i % 2 ? height : width);
  done(state.detections.map((d) => [d.label, d.score, d.box.map(pixels),
    btoa(String.fromCharCode(...rowsOf(predictedMask(d))))]));
})();
function rowsOf(mask) {  // eight pixels a byte
  const bytes = new Uint8Array(Math.ceil(mask.length / 8));
  mask.forEach((value, i) => { bytes[i >> 3] |= value << (7 - (i & 7)); });
  return Array.from(bytes);
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A copy of the page with what it needs; skips where its runtime was not downloaded."""
    if not (build_touch.BUILD / RUNTIME).is_file():
        pytest.skip("needs docs/touch/build: make touch")
    folder = tmp_path_factory.mktemp("touch")
    for name in ("index.html", "touch.js"):
        shutil.copy(build_touch.BUILD.parent / name, folder)
    (build := folder / "build").mkdir()
    shutil.copy(build_touch.BUILD / RUNTIME, build)
    build_touch.write_model(build)
    build_touch.write_samples(build)
    return folder / "index.html"


def opened(browser, page):
    """The page, once it has found something in its first picture, or has a problem."""
    browser.set_script_timeout(60)
    browser.get(page.as_uri())
    wait = "const [done] = arguments; busy.then(() => requestAnimationFrame(() => done()));"
    browser.execute_async_script(wait)
    return browser


def text(browser, name):
    return browser.find_element("id", name).text


def errors(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def after(browser, script, *arguments):
    """The value of a script once the page is done with what it started."""
    frames = "() => requestAnimationFrame(() => requestAnimationFrame(() => done(state.last)))"
    return browser.execute_async_script(
        f"const done = arguments[arguments.length - 1];"
        f"(async () => {{ {script} }})().then(() => busy).then({frames});",
        *arguments,
    )


def pictures(tmp_path):
    """Ten pictures: photos and synthetic ones."""
    devkit = synthetic.write(tmp_path, train=1, val=5, seed=3)
    photos = sorted(build_touch.PICTURES.glob("*.jpg"))
    return [read_picture(p) for p in [*photos, *sorted((devkit / "JPEGImages").glob("*"))]]


def test_it_finds_what_the_library_finds(browser, page, tmp_path):
    opened(browser, page)
    model, checked = load_model("pilot/yolact", "cpu"), 0
    for image in pictures(tmp_path):
        Image.fromarray(image).save(content := io.BytesIO(), "PNG")
        source = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
        found = browser.execute_async_script(IN_PAGE, source)
        (expected,) = model([torch.from_numpy(image.copy()).permute(2, 0, 1) / 255])
        assert len(found) == len(expected["labels"])
        corner = np.tile(image.shape[1::-1], 2)
        boxes = np.clip([box for *_, box, _ in found], 0, corner)
        for label, score, box, mask in zip(
            *(expected[name].detach().numpy() for name in ("labels", "scores", "boxes", "masks")),
            strict=True,
        ):
            if score < LEAST_SCORE:  # the last ones are chosen by rounding
                continue
            near = np.abs(boxes - box).max(1) < 0.1
            same = [d for d, is_near in zip(found, near, strict=True) if is_near and d[0] == label]
            ((_, found_score, _, bits),) = same
            assert found_score == pytest.approx(score, abs=1e-4)
            bits = np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8))[: mask.size] > 0
            assert (bits & mask.ravel()).sum() >= 0.99 * (bits | mask.ravel()).sum()
            checked += 1
    assert checked > 100
    assert errors(browser) == []


def test_each_part_moves_the_mask(browser, page):
    opened(browser, page)
    assert "ms for" in text(browser, "status")
    area = "state.last = measure(currentMask(currentSum())).all;"
    whole = after(browser, area)
    assert whole > 0
    change = "const at = {}; at.value = {}; at.dispatchEvent(new Event('input'));" + area
    element = "document.getElementById('{}')".format
    assert after(browser, change.format(element("threshold"), 0.9)) < whole
    after(browser, "document.getElementById('reset').click();")
    assert after(browser, change.format(element("right"), 0.3)) < whole
    after(browser, "document.getElementById('reset').click();")
    assert after(browser, change.format("bars.get(state.order[0])", "-Number(at.value)")) != whole
    after(browser, "document.getElementById('reset').click();")
    uncropped = after(browser, "document.getElementById('crop').click();" + area)
    assert uncropped > whole
    after(browser, "document.getElementById('reset').click();")
    assert after(browser, area) == whole
    # By keyboard.
    left = after(browser, "state.last = state.box[0];")
    browser.find_element("id", "sum").send_keys("\ue014")  # arrow right
    assert after(browser, "state.last = state.box[0];") == pytest.approx(left + 1 / 80)
    # A box keeps its size at the border, an edge stops at the opposite one.
    move = "state.last = movedBox([0.1, 0.1, 0.5, 0.5], 9, 0{});".format
    assert after(browser, move("")) == pytest.approx([0.6, 0.1, 1, 0.5])
    assert after(browser, move(", [0]")) == pytest.approx([0.48, 0.1, 0.5, 0.5])
    # With nothing left to choose, nothing is shown.
    shown = "const c = document.getElementById('sum'), { width, height } = c;"
    shown += "state.last = c.getContext('2d').getImageData(0, 0, width, height).data.some(Boolean);"
    assert after(browser, shown) is True
    none = "score.max = 1; score.value = 1; score.dispatchEvent(new Event('input'));"
    after(browser, "const score = document.getElementById('score');" + none)
    assert after(browser, shown) is False
    assert errors(browser) == []


def test_lessons_show_what_they_say(browser, page):
    opened(browser, page)
    for button in browser.find_elements("css selector", "#lessons button"):
        after(browser, "arguments[0].click(); await busy;", button)
        before, now = after(
            browser,
            "const now = measure(currentMask(currentSum()));"
            "const before = measure(predictedMask(state.detections[state.chosen]));"
            "state.last = [before, now];",
        )
        assert now["all"] > before["all"]
        assert max(now["outside"] - before["outside"], now["onOthers"] - before["onOthers"]) > 0.1
        assert text(browser, "lesson")
        assert "{" not in text(browser, "lesson")
    assert errors(browser) == []


def test_what_is_wrong_is_one_sentence(browser, page, tmp_path):
    opened(browser, page)
    after(browser, "openFile(new File(['no picture'], 'notes.png'));")
    assert text(browser, "problem") == "notes.png is not a picture that this browser can read."
    after(browser, "document.getElementById('webcam').click();")
    assert text(browser, "problem").startswith(("No webcam", "This browser"))
    after(browser, "openSample(vocsegSamples.pictures[1]);")
    shutil.copytree(page.parent, tmp_path / "damaged")
    damaged = tmp_path / "damaged" / "build" / "model.js"
    description = "globalThis.vocsegModel.description = {};"
    damaged.write_text(f'globalThis.vocsegModel = {{onnx: "AAAA"}}; {description}')
    opened(browser, tmp_path / "damaged" / "index.html")
    assert text(browser, "problem").startswith("The model could not be loaded")
    assert errors(browser) == []


@pytest.mark.parametrize("width", [360, 800, 1300])
def test_it_fits_into_the_window(browser, page, width):
    browser.set_window_size(max(width, 500), 1000)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    opened(browser, page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
