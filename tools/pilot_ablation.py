"""Train variants of the mask loss from the pilot's YOLACT: python -m tools.pilot_ablation.

After `make study` with the pilot's weights, of which each variant is trained a little further.
Writes results/pilot/ablation.csv, which `tools.collect_results` reads.
"""

import argparse
from dataclasses import replace

from tools.collect_results import ABLATION
from tools.pilot_runs import FOLDER
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.study.ablation import ablation_table, train_variants
from vocseg_lib.study.study import reproduce
from vocseg_lib.utils.files import write_text

ITERATIONS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="of each variant")
    options = parser.parse_args()
    if options.iterations < 1:
        parser.error(f"--iterations must be 1 or more, got {options.iterations}")
    if not (run := FOLDER / "runs" / "yolact").is_dir():
        parser.error(f"{run} is missing: run make study INIT=pilot RESULTS=results/pilot first")
    study, _ = reproduce(run, results=FOLDER)
    recipe = study.recipe.with_changes(iterations=options.iterations)
    variants = train_variants(replace(study, recipe=recipe), fraction=1)
    table = ablation_table(variants, bootstrap_weights(len(study.val)))
    write_text(FOLDER / f"{ABLATION}.csv", table.to_csv(index=False))
    print(table.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
