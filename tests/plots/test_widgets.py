import sys
from types import SimpleNamespace
from unittest.mock import Mock, call

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from vocseg_lib.data.voc import sample_paths
from vocseg_lib.plots import widgets
from vocseg_lib.plots.pictures import Visualizer
from vocseg_lib.plots.widgets import LivePlot, browse, upload_button, upload_in_colab


@pytest.mark.parametrize(("seconds", "count"), [(10.0, 1), (0.0, 2)])
def test_a_live_plot_is_updated_in_place_and_not_too_often(tmp_path, monkeypatch, seconds, count):
    monkeypatch.setattr(widgets, "REDRAW_SECONDS", seconds)
    draw = Mock(side_effect=lambda path: plt.figure())
    live = LivePlot(draw)
    assert live.widget.layout.display == "none"  # an empty picture would look broken
    live.update(tmp_path)
    assert live.widget.layout.display == "block"
    live.update(tmp_path)
    assert draw.mock_calls == [call(tmp_path)] * count
    assert bytes(live.widget.value).startswith(b"\x89PNG")


def test_the_browser_draws_the_selected_row():
    types, only = ["leak", "leak", "ghost", "leak"], [True, False, False, True]
    table = pd.DataFrame({"type": types, "size": ["s", "l", "s", "s"], "only": only})
    draw = Mock(side_effect=lambda row: plt.figure())
    box = browse(table, ["type", "size"], "only", draw)
    menus, (checkbox, position, count) = box.children[0].children, box.children[1].children
    assert [menu.options for menu in menus] == [("all", "ghost", "leak"), ("all", "l", "s")]
    position.value = 2
    menus[0].value = "leak"
    assert (position.value, position.max, count.value) == (0, 2, "3 of 4 cases")
    menus[1].value = "l"
    checkbox.value = True
    assert (count.value, box.children[-1].value) == ("0 of 4 cases", b"")
    menus[1].value = "all"
    position.value = 1
    # Drawn at each change, but not without a row.
    assert [drawn.args[0].name for drawn in draw.mock_calls] == [0, 2, 0, 1, 0, 3]
    assert not hasattr(browse(table[:0], ["type"], "only", draw), "children")


@pytest.fixture
def visualizer():
    drawn = np.zeros((9, 9, 3), np.uint8)
    model = Mock(spec=Visualizer, draw=Mock(return_value=(drawn, {})))
    model.describe.return_value = "cat <0.90>"
    return model


@pytest.mark.parametrize("version", [7, 8])
def test_an_upload_is_drawn_and_a_bad_one_reported(visualizer, devkit, sample, version):
    content = sample_paths(devkit, sample.name)[0].read_bytes()

    def upload(name, content):
        file = {"content": memoryview(content)}
        files = ({"name": name, **file},) if version == 8 else {name: file}
        button.notify_change({"name": "value", "type": "change", "new": files})
        return bytes(picture.value), picture.layout.display, message.value

    line, message, picture = upload_button(visualizer).children
    button = line.children[0]
    png, display, text = upload("<a>.jpg", content)
    assert (png[:4], display, text) == (b"\x89PNG", "block", "&lt;a&gt;.jpg: cat &lt;0.90&gt;")
    for name, bad in [
        ("a.jpg", content[:900]),
        ("a.png", b"text"),
        ("a.mp4", b""),
        ("a.b\n?", b""),
    ]:
        png, display, text = upload(name, bad)
        assert (png, display) == (b"", "none")
        assert "cat &lt;" not in text
        assert "/" not in text.replace("</", "")
    visualizer.draw.side_effect = RuntimeError("not enough memory")
    assert upload("a.jpg", content)[:2] == (b"", "none")
    assert button.notify_change({"name": "value", "type": "change", "new": ()}) is None


def test_colab_has_its_own_dialog(visualizer, monkeypatch, tmp_path):
    assert upload_in_colab() == []
    monkeypatch.chdir(tmp_path)
    colab = SimpleNamespace(files=SimpleNamespace(upload=lambda: {"a (1).jpg": b""}))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    assert upload_in_colab() == [tmp_path / "a (1).jpg"]
    assert not hasattr(upload_button(visualizer), "children")
