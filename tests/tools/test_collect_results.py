import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tools import collect_results
from tools.collect_results import COMPARED, LINEAGE, REPORT, compare_with_peer, nest, shrink
from tools.tables import read_table
from tools.train_command import train_command
from vocseg_lib.study.recipes import MODEL_TITLES, get_recipe

RESULTS = Path(__file__).parents[2] / "results"


def test_figures_are_made_small_enough(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (250, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    shrink(tmp_path / "large.png", tmp_path / "small.png", 40_000)
    assert (tmp_path / "small.png").stat().st_size <= 40_000
    with Image.open(tmp_path / "small.png") as image:
        assert image.width / image.height == pytest.approx(1.6, rel=0.02)


@pytest.mark.parametrize(
    ("minutes", "iterations"), [(10.0, None), (13.0, 25), (15.0, 30), (99.0, 50)]
)
def test_a_peer_stands_beside_the_longest_training_within_its_time(tmp_path, minutes, iterations):
    value = {"value": 1.0, "low": 0.5, "high": 2.0}
    ap, pairs = dict.fromkeys(COMPARED, value), (("A", 25), ("B", 28), ("A", 50), ("A", 30))
    trainings = [{"model": m, "iterations": i, "minutes": float(i), **ap} for m, i in pairs]
    row = {"kind": "mask", "class": "all", **value}
    rows = [{**row, "metric": metric} for metric in ("AP", "AP50")]
    (tmp_path / "peer.json").write_text(json.dumps({"table": rows}))
    peer = {"model": "A", "minutes": minutes, "cores": 2, "file": "peer.json"}
    compared = compare_with_peer(peer, trainings, tmp_path)
    assert (compared["study"] and compared["study"]["iterations"]) == iterations
    assert compared["mask_AP50"] == value


def test_metrics_of_other_predictions_are_refused(tmp_path):
    keys = pd.MultiIndex.from_tuples([("mask", "AP", "all")], names=["kind", "metric", "class"])
    tables = {title: pd.DataFrame({"value": [40.0]}, index=keys) for title in MODEL_TITLES.values()}
    pd.concat(tables, axis=1).to_csv(tmp_path / "metrics.csv")
    for ap in (40.0, 41.0):
        evaluations = {"YOLACT": SimpleNamespace(summary={"mask_AP": ap})}
        with pytest.raises(ValueError, match="YOLACT") if ap != 40 else nullcontext():
            metrics = collect_results._metrics(tmp_path / "metrics.csv", evaluations)
    assert metrics["YOLACT"]["mask_AP"]["value"] == 40


def test_a_table_by_its_keys_and_a_missing_one(tmp_path):
    columns = {"size": ["all", "small", "all"], "type": ["a", "a", "b"], "dap": [1, 2, 3]}
    nested = {"a": {"all": {"dap": 1}, "small": {"dap": 2}}, "b": {"all": {"dap": 3}}}
    assert nest(pd.DataFrame(columns), "type", "size") == nested
    with pytest.raises(FileNotFoundError, match="table1"):
        collect_results.collect(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0\ud800PNG",
        "part,points\n",
        "part,points,low,high\n",
        "part,points,low,high\na,x,1,2\n",
    ],
)
def test_damaged_tables_are_one_line_and_exit_code_2(tmp_path, content, capsys):
    for name in collect_results.TABLES:
        (tmp_path / f"{name}.csv").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=r"gap\.csv"):
        read_table(tmp_path / "gap.csv", collect_results.TABLES["gap"])
    with pytest.raises(SystemExit) as exit_info:
        collect_results.main([str(tmp_path)])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "table1.csv") in line


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("", {}),
        (" --set iterations=400", {"iterations": 400, "short_side": 999}),
        (" --init w.pth --set channels=8", {"init": "/some/where/w.pth", "channels": 8}),
        (" --init pilot/yolact", {"init": "pilot/yolact"}),
    ],
)
def test_the_command_has_what_differs_from_the_recipe(options, changes):
    recipe = get_recipe("laptop").with_changes(**changes)
    config = {"recipe": recipe.for_model("yolact"), "train": recipe.train.to_dict()}
    config["model"] = "yolact"
    start = "vocseg train --profile laptop --model yolact --data DEVKIT"
    assert train_command(config, "yolact") == start + options


def test_what_is_claimed_of_the_committed_results_holds():
    report = json.loads((RESULTS / "pilot" / REPORT).read_text())
    assert report["data"]["kind"] == "pilot"
    assert json.loads((RESULTS / "lineage" / LINEAGE).read_text())["data"] == "pilot"
    models = report["models"]
    for title, part in (("YOLACT", "yolact"), ("Mask R-CNN", "mask_rcnn")):
        assert models[title]["recipe"][part]["backbone"] == "mobilenet_v2"
    trainings = [*models.values(), *(report["seeds"] or {"trainings": []})["trainings"]]
    assert all(training["train"]["selection_share"] == 0.1 for training in trainings)
    # The last trainings of the weights may differ in two fields, the seeds' in none.
    own = {"iterations", "eval_every", "seed", "warmup_iterations"}
    weights, chosen = [*models.values()], {"augmentation", "learning_rate"}
    common = [
        {k: v for k, v in t["train"].items() if k not in own | (chosen if t in weights else set())}
        for t in trainings
    ]
    common[:2] = [common[-1] | train for train in common[:2]]
    assert all(train == common[0] for train in common)
    for peer in (peer for peer in report["peers"] if peer["study"]):
        assert peer["study"]["minutes"] <= peer["minutes"] * peer["cores"]
        for metric in COMPARED:
            assert peer["study"][metric]["value"] > peer[metric]["value"]
    assert report["metrics"]["YOLACT"]["mask_AP50"]["value"] > 10
    assert report["metrics"]["Mask R-CNN"]["mask_AP50"]["value"] > 15
