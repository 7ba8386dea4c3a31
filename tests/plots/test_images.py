import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from vocseg_lib.plots import images, style
from vocseg_lib.plots.images import Layer, draw_instances, to_hwc


@pytest.mark.parametrize("as_float", [False, True])
def test_masks_are_tinted_and_boxes_labeled(sample, as_float):
    image = sample.image / 255 if as_float else sample.image
    scores = [0.5] * len(sample.labels)
    ax = draw_instances(image, sample.masks, sample.boxes, sample.labels, scores)
    assert len(ax.patches) == len(ax.texts) == len(sample.labels)
    assert all(text.get_text().endswith(" 0.50") for text in ax.texts)
    changed = (ax.images[0].get_array() != to_hwc(sample.image)).any(2)
    covered = sample.masks.amax(0).numpy() > 0
    assert not changed[~covered].any()
    assert changed[covered].mean() > 0.9
    no_masks = {"masks": sample.masks[:0]}
    panels = {"boxes": {**no_masks, "boxes": sample.boxes}, "none": no_masks}
    axes = images.side_by_side(image, panels, "title", "caption")
    assert [ax.get_title() for ax in axes] == list(panels)
    assert [len(ax.patches) for ax in axes] == [len(sample.boxes), 0]


def test_the_first_instance_is_on_top_and_weak_layers_have_less_tint(sample):
    masks = torch.ones(2, 20, 20)
    pixel = draw_instances(torch.zeros(3, 20, 20), masks).images[0].get_array()[10, 10]
    blue, orange = np.array([0x00, 0x72, 0xB2]), np.array([0xD5, 0x5E, 0x00])
    assert np.abs(pixel - (0.5 * blue + 0.25 * orange)).max() <= 1
    # Dotted ones have none.
    mask, picture = sample.masks[0].numpy() > 0, to_hwc(sample.image)
    tints = []
    for strong, dotted in ((True, False), (False, False), (True, True)):
        layer = Layer(mask, [5, 5, 20, 10], "red", "text", strong, dotted)
        pixels = images.draw_layers(picture, [layer]).images[0].get_array()
        tints.append(np.abs(pixels[mask].astype(float) - picture[mask]).mean())
    assert tints[0] > tints[1] > tints[2] == 0


OWN = matplotlib.get_data_path()


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """Only these are installed: Matplotlib's own, and `Own Sans` with two signs."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("犬"): "square", ord("क"): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Own Sans", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "own.ttf")
    manager, entries = font_manager.fontManager, font_manager.fontManager.ttflist
    monkeypatch.setattr(manager, "ttflist", [e for e in entries if e.fname.startswith(OWN)])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "own.ttf")])
    monkeypatch.setattr(style, "_without_font", set())
    font_manager.fontManager._findfont_cached.cache_clear()
    with plt.rc_context():
        yield


def test_names_in_other_scripts_have_a_font(sample, fonts, capsys):
    options = {"boxes": sample.boxes[:1], "labels": [1], "class_names": ["Щенок 犬 क"]}
    ax = draw_instances(sample.image, sample.masks[:1], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax.figure.canvas.draw()
    assert plt.rcParams["font.family"] == ["sans-serif", "Own Sans"]
    assert capsys.readouterr().out == ""
    for _ in range(2):
        options["class_names"] = ["犬 猫 plain"]
        draw_instances(sample.image, sample.masks[:1], **options).figure.canvas.draw()
    (line,) = capsys.readouterr().out.splitlines()  # once
    assert "猫" in line
    assert "犬" not in line
    assert "fonts-noto-cjk" in line


def test_boxes_are_drawn_on_axes_and_into_pixels(sample):
    ax = images.draw_boxes(sample.image, sample.boxes, "title", "caption")
    assert len(ax.patches) == len(sample.boxes)
    changed = (images.draw_box(sample.image, sample.boxes[0]) != to_hwc(sample.image)).any(2)
    x1, y1, x2, y2 = sample.boxes[0].int().tolist()
    assert changed.any()
    assert not changed[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].any()
