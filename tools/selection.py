"""What choosing the weights on val flatters by: python -m tools.selection RESULTS --out FILE.

Of the trainings of a results folder with a part of train set aside (`selection_share`).
"""

import argparse
from pathlib import Path

from vocseg_lib import plots
from vocseg_lib.engine.run_folder import CONFIG, LOG, read_log
from vocseg_lib.study.recipes import MODEL_TITLES, read_config
from vocseg_lib.utils.files import read_json, to_jsonable, write_json

COLUMNS = "model|iterations|val AP50, chosen on val|chosen on the part of train|flattered by"


def flattery(run: Path) -> dict:
    """Val's mask AP50 (percent) of the weights that val chooses, and of those that train does.

    Raises ValueError if no part of train was set aside.
    """
    config, evals = read_config(run / CONFIG), plots.logged_evaluations(read_log(run / LOG))
    share = config["train"].get("selection_share")
    if not share or "selection_AP50" not in evals:
        raise ValueError(f"{run} set no part of train aside: train with selection_share=0.1")
    by_train = evals.sort_values(["selection_AP50", "selection_loss"], ascending=[False, True])
    chosen = {"val": int(evals["mask_AP50"].idxmax()), "train": int(by_train.index[0])}
    ap50 = {name: float(evals["mask_AP50"][at]) for name, at in chosen.items()}
    return {
        "model": MODEL_TITLES[config["model"]],
        "iterations": config["train"]["iterations"],
        "evaluations": len(evals),
        "share": share,
        "val_images": int(evals["val_images"].iloc[-1]),
        "selection_images": int(evals["selection_images"].iloc[-1]),
        "chosen_at": chosen,
        "mask_AP50": ap50,
        "flattered_by": ap50["val"] - ap50["train"],
    }


def markdown(rows: list[dict]) -> str:
    """The rows as the table of docs/evaluating.md."""
    lines = [f"| {' | '.join(COLUMNS.split('|'))} |", "|---|---|---|---|---|"]
    for row in rows:
        ap50, at = row["mask_AP50"], row["chosen_at"]
        chosen = [f"{ap50[name]:.1f} (iteration {at[name]:,})" for name in ("val", "train")]
        cells = row["model"], f"{row['iterations']:,}", *chosen, f"{row['flattered_by']:.1f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results folder, or a file that this wrote")
    text = "write the rows as JSON; those of other models that it has stay"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)
    options = parser.parse_args()
    if options.results.is_dir():
        runs = sorted(options.results.glob("runs/*"))
        rows = to_jsonable([flattery(run) for run in runs], digits=4)
    else:
        rows = read_json(options.results)
    if options.out:
        stored = read_json(options.out) if options.out.is_file() else []
        models = [row["model"] for row in rows]
        rows = [row for row in stored if row["model"] not in models] + rows
        write_json(options.out, rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()
