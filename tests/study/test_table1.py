from itertools import product

import pandas as pd
import pytest
import torch
from torch import nn

from tests.helpers.models import small
from vocseg_lib.study import table1

TITLES = ("YOLACT", "Mask R-CNN")
METRICS = list(product(table1.CHECKPOINT_TITLES, ("mask", "box"), ("AP", "AP50", "AP75")))


@pytest.fixture
def table():
    measured = dict.fromkeys(table1.QUANTITIES, 12.5)
    ap = pd.DataFrame(METRICS, columns=["checkpoint", "kind", "metric"])
    ap = ap.assign(value=40.0, low=30.0, high=50.0)
    rows = [row for t in TITLES for row in table1.study_rows(t, measured, ap, "on 6 images")]
    return pd.DataFrame([*rows, *table1.paper_rows()], columns=table1.COLUMNS)


def test_a_column_per_source_and_model_in_files_notebook_and_figure(table, tmp_path):
    wide = table1.wide_table1(table)
    assert list(wide) == [f"{s}: {model}" for s in ("this study", "paper") for model in TITLES]
    assert len(wide) == len(table1.QUANTITIES) + len(METRICS)
    half = wide.loc[f"mask AP50, {table1.CHECKPOINT_TITLES['half']}"]
    assert half.tolist() == ["40.0 [30.0, 50.0]", "40.0 [30.0, 50.0]", "48.5", "43.3"]
    table1.save_table1(table, tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table1.csv"), table)
    text = (tmp_path / "table1.md").read_text()
    assert "| FPS | 12.5 | 12.5 | 17.2 | 15.8 |" in text
    for form in (text, table1.styled_table1(table).to_html()):
        assert all(note in form for note in ("on 6 images", *table1.FOOTNOTES))
    # The figure has published values, too.
    ax = table1.speed_and_accuracy(table)
    labels = [text.get_text() for text in ax.texts]
    assert len(labels) == 4 + len(table1.PUBLISHED_AP50)
    assert {"paper, YOLACT 6K", "Mask R-CNN, train_aug: 67.3"} <= set(labels)
    assert len(ax.get_legend().get_texts()) == 2


def test_a_studys_own_table(trained):
    table = table1.build_table1(trained)
    rows = table[table["source"] == table1.STUDY]
    assert set(rows["model"]) == set(TITLES)
    values = rows[rows["model"] == "YOLACT"].set_index("quantity")["value"]
    assert (values[list(table1.QUANTITIES.values())] > 0).all()
    assert values.index.str.contains("mask AP50").sum() == 3
    assert (trained.results / "table1.csv").is_file()


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[3]", b"{}", b'{"train_minutes": "few"}'])
def test_damaged_metrics_are_named(tmp_path, content):
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.json"):
        table1.measure_run(tmp_path, [])


def test_table_1_stays_text(table, tmp_path):
    table["description"], table["model"] = "a | b\n<b>", "<i>$x$ | y"
    html = table1.styled_table1(table.drop_duplicates(["quantity", "source"])).to_html()
    assert not [tag for tag in ("<i>", "<b>") if tag in html]
    table1.save_table1(table.drop_duplicates(["quantity", "source"]), tmp_path)
    lines = (tmp_path / "table1.md").read_text().splitlines()
    assert {line.count("|") - line.count("\\|") for line in lines if line[:1] == "|"} == {4}
    assert not any("<" in line.replace("<br>", "") for line in lines)


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_parts_of_the_latency_add_up(name):
    model, images = small(name).train(), [torch.rand(3, 60, 80), torch.rand(3, 50, 50)]
    speed = table1.measure_speed(model, images, repeats=5)
    assert model.training
    assert speed["fps"] == pytest.approx(1 / speed["seconds_per_image"])
    assert 0 < speed["network_seconds"] < speed["seconds_per_image"]
    assert 0 < speed["postprocess_seconds"] < speed["seconds_per_image"]


class OneConvolution(nn.Conv2d):
    def forward(self, images):
        return [{"masks": nn.functional.conv2d(image, self.weight, padding=1)} for image in images]


def test_operations_by_hand():
    model = OneConvolution(3, 8, 3, padding=1, bias=False).train()
    gflop = table1.count_gflop(model, torch.rand(3, 32, 40))
    assert gflop == 2 * 32 * 40 * 8 * 3 * 9 / 1e9
    assert model.training
