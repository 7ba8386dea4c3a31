"""Keep what the pilot's trainings gave: python -m tools.pilot_runs RESULTS GROUP.

Writes the predictions of every run of a results folder to results/pilot/GROUP/RUN.json.gz, with how
it was trained in the header; of the group `paper` also those halfway and at the end; of `weights`
also the weights and their cards, in fp16, and evaluated so; of `augmentation` no predictions.
"""

import argparse
import hashlib
from pathlib import Path

from tools.train_command import recorded_config
from vocseg_lib import plots
from vocseg_lib.engine.checkpoint import load_checkpoint, save_checkpoint
from vocseg_lib.engine.run_folder import BEST, CONFIG, LOG, SESSIONS, read_log, read_sessions
from vocseg_lib.study.export import export_weights, start_of, stored_state
from vocseg_lib.study.initial_weights import WEIGHTS_FOLDER
from vocseg_lib.study.recipes import MODEL_TITLES, read_config, without_folders
from vocseg_lib.study.results import PREDICTIONS
from vocseg_lib.study.study import reproduce
from vocseg_lib.study.train import train_model
from vocseg_lib.utils.files import naming_damage, read_json, to_jsonable, write_json

HALF_PRECISION = "half_precision.json"
DEVICE = ("device", "device_name", "cpu_cores", "half_precision")
VERSIONS = ("python", "torch", "torchvision", "numpy", "vocseg_lib")
FOLDER = Path(__file__).parents[1] / "results" / "pilot"
WEIGHTS, SEEDS, FP32, PAPER = "weights", "seeds", "fp32", "paper"
AUGMENTATION = "augmentation"
GROUPS = (WEIGHTS, SEEDS, FP32, PAPER, AUGMENTATION)
"""Groups of trainings: the weights that are kept, of equal minutes, some of these without half
precision, by the published recipe, from the same weights with other augmentation."""


def training_notes(run: Path) -> dict:
    """How a run was trained: metrics, sessions (device, versions, commit), evaluations on val."""
    log, config = read_log(run / LOG), read_config(run / CONFIG)
    sessions = [{**s, "devkit": None} for s in read_sessions(run / SESSIONS)]  # not the path
    return to_jsonable(
        {
            "metrics": read_json(run / "metrics.json"),
            "sessions": sessions,
            "start": start_of(config),
            "evaluations": plots.logged_evaluations(log).reset_index().to_dict("records"),
            "overfitting": plots.overfitting(log),
        }
    )


def keep_predictions(run: Path, folder: Path, checkpoint: str = "best") -> Path:
    """Write a run's predictions without the masks before the crop, to be small; the path."""
    config, notes = read_config(run / CONFIG), training_notes(run)
    predictions = read_json(run / PREDICTIONS[checkpoint])
    for detection in predictions["detections"]:
        detection.pop("segmentation_uncropped", None)
    predictions["header"] |= {"config": without_folders(config), "training": notes}
    path = kept_file(folder, f"{config['model']}_seed{config['train']['seed']}", checkpoint)
    write_json(path, predictions)
    return path


def keep_notes(run: Path, folder: Path) -> Path:
    """Write how a run was trained, under the name of its augmentation; the path."""
    config = read_config(run / CONFIG)
    path = folder / f"{config['model']}_{config['train']['augmentation']}.json"
    write_json(path, {**recorded_config(without_folders(config)), **training_notes(run)})
    return path


def kept_file(folder: Path, training: str, checkpoint: str = "best") -> Path:
    """Where a training's predictions of a checkpoint are kept."""
    return folder / f"{training}{'' if checkpoint == 'best' else f'_{checkpoint}'}.json.gz"


def read_training(file: Path) -> dict:
    """How a model was trained, from the header of its predictions (see `keep_predictions`)."""
    with naming_damage(file):
        header = read_json(file)["header"]
        notes = header["training"]
        metrics, sessions = notes["metrics"], notes["sessions"]
        return {
            "model": MODEL_TITLES[header["model"]],
            **recorded_config(header["config"]),
            "best_iteration": header["iteration"],
            "minutes": float(metrics["train_minutes"]),
            "commits": list(dict.fromkeys(session["commit"] for session in sessions)),
            "device": {key: sessions[-1].get(key) or metrics.get(key) for key in DEVICE},
            "versions": {key: metrics[key] for key in VERSIONS},
            "started": sessions[0]["started"],
            **{key: notes[key] for key in ("start", "evaluations", "overfitting")},
        }


def round_weights(run: Path, results: Path) -> None:
    """Round a run's best weights to fp16, as they will be stored, and evaluate them again."""
    best = load_checkpoint(run / BEST)
    stored = stored_state(best["model"])
    best["model"] = {name: stored[name].to(value.dtype) for name, value in best["model"].items()}
    save_checkpoint(run / BEST, best)
    study, model_name = reproduce(run, results=results)
    train_model(study, model_name)  # nothing to train: evaluates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results folder with runs/")
    parser.add_argument("group", choices=GROUPS, help="what they are")
    options = parser.parse_args()
    configs = sorted(options.results.glob(f"runs/*/{CONFIG}"))
    if not configs:
        parser.error(f"{options.results} has no runs/*/{CONFIG}: train with --results first")
    for config in configs:
        run = config.parent
        if options.group == AUGMENTATION:
            print(keep_notes(run, FOLDER / AUGMENTATION))
            continue
        if options.group == WEIGHTS:
            round_weights(run, options.results)
        for checkpoint in PREDICTIONS if options.group == PAPER else ["best"]:
            print(keep_predictions(run, FOLDER / options.group, checkpoint))
        if options.group == WEIGHTS:
            out = WEIGHTS_FOLDER / f"pilot_{read_config(run / CONFIG)['model']}.safetensors"
            path, _ = export_weights(run, out)
            print(path, hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
