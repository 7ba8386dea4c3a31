"""`make attack`: damaged files, kills, full disks, hostile archives and pickles; none may hurt.

What becomes of each: read, refused (an error that names the file) or a failure: unnamed (an error
that does not), traceback (any other exception), crash, hang, loss (of something whole).
"""

import argparse
import multiprocessing
import queue
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd
from tqdm import tqdm

from benchmarks.attack_cases import FAILURES, OUTCOMES, Worker
from benchmarks.attack_kinds import KINDS
from benchmarks.attack_seeds import make_world
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import write_json

PROCESSES = 2
FATAL = ("traceback", "crash", "hang", "loss")
Row = tuple[str, int, str, str]
"""Kind, index, one of `OUTCOMES`, and why."""


def shares(files: int) -> list[tuple[str, int]]:
    """Kind and index of so many cases, in turn by the weights of the kinds."""
    total = sum(kind.weight for kind in KINDS.values())
    counts = {name: max(1, round(files * kind.weight / total)) for name, kind in KINDS.items()}
    return [(name, index) for name, count in counts.items() for index in range(count)]


def attack_files(cases: list[tuple[str, int]], world: Path, seed: int) -> list[Row]:
    """Damage a file per case and read it, in processes."""
    workers: queue.Queue[Worker] = queue.Queue()
    for _ in range(PROCESSES):
        workers.put(Worker(world, seed))

    def run(case: tuple[str, int]) -> Row:
        worker = workers.get()
        try:
            return *case, *worker.run(*case)
        finally:
            workers.put(worker)

    with ThreadPoolExecutor(PROCESSES) as pool:
        bar = tqdm(pool.map(run, cases), "damaged files", len(cases), unit="file")
        rows = [*bar]
    while not workers.empty():
        workers.get().close()
    return rows


def tabulate(rows: Iterable[Row]) -> pd.DataFrame:
    """How many of each kind were attacked, and their outcomes."""
    counts = Counter((kind, outcome) for kind, _, outcome, _ in rows)
    kinds = dict.fromkeys(kind for kind, _ in counts)
    table = [{o: counts[kind, o] for o in OUTCOMES} for kind in kinds]
    frame = pd.DataFrame(table, columns=OUTCOMES, index=pd.Index(kinds, name="kind"))
    frame.loc["all"] = frame.sum()
    frame.insert(0, "attacked", frame.sum(axis=1))
    return frame


def report(rows: list[Row], options: argparse.Namespace) -> dict:
    """The content of attack.json."""
    failures = [dict(zip(("kind", "index", "outcome", "why"), row, strict=True)) for row in rows]
    failures = [failure for failure in failures if failure["outcome"] in FAILURES]
    return {
        "files": options.files,
        "kills": options.kills,
        "seed": options.seed,
        "table": tabulate(rows).reset_index().to_dict("records"),
        "failures": failures,
        **environment_info("cpu"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add: Callable = parser.add_argument
    add("--files", type=int, default=3_000, help="damaged files; default: 3000")
    add("--kills", type=int, default=100, help="of trainings, and a fifth of other writers")
    add("--seed", type=int, default=0, help="another one gives other damage")
    text = "repeat this case alone, or all cases of a kind"
    add("--only", default="", metavar="KIND[:INDEX]", help=text)
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON; default, without --only: results/attack.json",
    )
    options = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["benchmarks.attack_cases"])
    only, _, index = options.only.partition(":")
    cases = [case for case in shares(options.files) if only in ("", case[0])]
    if index:
        cases = [(only, int(index))]
    with tempfile.TemporaryDirectory(prefix="attack_") as folder:
        world = Path(folder) / "world"
        make_world(world)
        rows = attack_files(cases, world, options.seed)
    failures = [row for row in rows if row[2] in FAILURES]
    for kind, number, outcome, why in failures:
        print(f"{kind}:{number} {outcome}: {why}")
    print(tabulate(rows).to_string())
    out = options.out or (None if only else Path("results/attack.json"))
    if out:
        write_json(out, report(rows, options))
        print(out)
    return int(any(outcome in FATAL for _, _, outcome, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
