import matplotlib.pyplot as plt
import pytest

import vocseg_lib.plots
from vocseg_lib.plots.style import new_axes, save_figure


def test_figures_are_saved(tmp_path):
    _, ax = plt.subplots()
    ax.plot([0, 1])
    save_figure(ax, tmp_path, "line")
    assert plt.imread(tmp_path / "figures" / "line.png").std() > 0


def test_spare_axes_are_hidden():
    axes = new_axes(4, 3, (2, 2))
    assert [ax.axison for ax in axes[0].figure.axes] == [True] * 4 + [False] * 2


def test_every_name_of_plots_exists():
    for name in vocseg_lib.plots.__all__:
        assert callable(getattr(vocseg_lib.plots, name)) or name == "FILTERS"
    with pytest.raises(AttributeError, match="no_such_figure"):
        _ = vocseg_lib.plots.no_such_figure
