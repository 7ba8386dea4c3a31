"""Does RoI pooling catch up with more training? python -m benchmarks.roi_pooling --data DEVKIT

Trains Mask R-CNN with RoIAlign, with RoI pooling and with RoIAlign of rounded regions, as notebook
07 does; lineage_iterations.csv and a figure compare them after a quarter, half and all iterations.
"""

import argparse
from pathlib import Path

import matplotlib

from vocseg_lib import plots
from vocseg_lib.study.lineage import LINEAGE_ROWS, POOLING_ROWS, SHORT, LineageConfig, evaluate_row
from vocseg_lib.study.lineage_table import evaluate_pooling, pooling_by_iterations
from vocseg_lib.study.study import open_study


def main(arguments: list[str] | None = None) -> None:
    """Train, or resume the trainings in the results folder, and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--data", default="", help="VOC devkit; default: the recipe's data")
    parser.add_argument("--init", default="", help="what models start from")
    parser.add_argument("--results", type=Path, default=Path("results/roi_pooling"))
    parser.add_argument("--iterations", type=int, default=2_000)
    options = parser.parse_args(arguments)
    matplotlib.use("Agg")
    study = open_study(options.profile, options.data, options.results, options.init)
    config = LineageConfig(proposals=100, iterations=options.iterations)
    for row in LINEAGE_ROWS:
        if row.title in POOLING_ROWS:
            evaluate_row(study, config, row)
    table = pooling_by_iterations(study, evaluate_pooling(study, config))
    axes = plots.differences_by_iteration(table, SHORT, study.description)
    plots.save_figure(axes[0].figure, study.results, "07_roi_pooling_iterations")
    print(table.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
