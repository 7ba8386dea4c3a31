from vocseg_lib.files import workspace
from vocseg_lib.study import open_study


def test_a_notebook_in_a_checkout_shares_data_and_results_with_the_command_line(tmp_path, monkeypatch, devkit):
    """Jupyter starts kernels in the notebook's folder, make study in the checkout."""
    for folder in ("notebooks", "vocseg_lib", "elsewhere/notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    for folder, place in ((".", tmp_path), ("notebooks", tmp_path), ("elsewhere/notebooks", tmp_path / "elsewhere/notebooks")):
        monkeypatch.chdir(tmp_path / folder)
        assert workspace().resolve() == place.resolve()
        assert open_study("quick", devkit).results.resolve() == (place / "results" / "quick").resolve()
