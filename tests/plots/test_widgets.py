from unittest.mock import Mock, call

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from vocseg_lib.plots import widgets
from vocseg_lib.plots.widgets import LivePlot, browse


@pytest.mark.parametrize(("seconds", "count"), [(10.0, 1), (0.0, 2)])
def test_a_live_plot_is_updated_in_place_and_not_too_often(tmp_path, monkeypatch, seconds, count):
    monkeypatch.setattr(widgets, "REDRAW_SECONDS", seconds)
    draw = Mock(side_effect=lambda path: plt.figure())
    live = LivePlot(draw)
    live.update(tmp_path)
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
