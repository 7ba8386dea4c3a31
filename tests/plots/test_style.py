import matplotlib.pyplot as plt

from vocseg_lib.plots.style import new_axes, save_figure


def test_figures_are_saved_and_spare_axes_hidden(tmp_path):
    axes = new_axes(4, 3, (2, 2))
    assert [ax.axison for ax in axes[0].figure.axes] == [True] * 4 + [False] * 2
    save_figure(axes[0], tmp_path, "four")
    assert plt.imread(tmp_path / "figures" / "four.png").std() > 0
