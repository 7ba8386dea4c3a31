"""`make attack`: damaged files, kills, full disks, hostile archives and pickles.

Each case is read or refused (an error that names the file), or it is a failure: unnamed (an error
that does not name it), traceback (any other exception), crash, hang, loss (of something whole).
"""

import argparse
import io
import math
import multiprocessing
import os
import queue
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from itertools import chain
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.attack_cases import FAILURES, KINDS, OUTCOMES, Worker
from benchmarks.attack_kills import WRITERS, kill
from benchmarks.attack_seeds import make_world
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import write_json

FILES, KILLS, PROCESSES = 3_000, 100, 2
FATAL = ("traceback", "crash", "hang", "loss")
Row = tuple[str, int, str, str]
"""Kind, index, one of `OUTCOMES`, and why."""


def list_cases(files: int) -> list[tuple[str, int]]:
    """Kind and index of so many damaged files, by the weights of the kinds, and other cases.

    There are all other cases with as many files as by default, and fewer with fewer.
    """
    total = sum(kind.weight for kind in KINDS.values())
    counts = {
        name: math.ceil(files * kind.weight / total + kind.count * min(1, files / FILES))
        for name, kind in KINDS.items()
    }
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


def attack_writers(kills: int, world: Path, seed: int) -> list[Row]:
    """Kill trainings `kills` times, and each other writer a fifth as often."""
    jobs = {"training": kills - kills // 2, "training, too": kills // 2}
    jobs |= {name: math.ceil(kills / 5) for name in WRITERS if name not in jobs}
    bar = tqdm(desc="kills", total=sum(jobs.values()), unit="kill")

    def run(job: str) -> list[Row]:
        name, folder, rows = job.partition(",")[0], world.parent / job, []
        for index, outcome in enumerate(kill(name, jobs[job], world, folder, seed)):
            rows.append((f"kill: {name}", index, *outcome))
            bar.update()
        return rows

    with ThreadPoolExecutor(PROCESSES) as pool, bar:
        return [*chain.from_iterable(pool.map(run, jobs))]


def tabulate(rows: Iterable[Row]) -> pd.DataFrame:
    """How many of each kind were attacked, and their outcomes."""
    counts = Counter((kind, outcome) for kind, _, outcome, _ in rows)
    kinds = dict.fromkeys(kind for kind, _ in counts)
    table = [{o: counts[kind, o] for o in OUTCOMES} for kind in kinds]
    frame = pd.DataFrame(table, columns=OUTCOMES, index=pd.Index(kinds, name="kind"))
    frame.loc["all"] = frame.sum()
    frame.insert(0, "attacked", frame.sum(axis=1))
    return frame


def markdown(table: pd.DataFrame) -> str:
    """A table of `tabulate` in Markdown."""
    rows = [["kind", *table.columns], ["---"] * (1 + len(table.columns)), *table.itertuples()]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add: Callable = parser.add_argument
    add("--files", type=int, default=FILES, help=f"damaged files; default: {FILES}")
    text = f"of trainings, and a fifth of each other writer; default: {KILLS}"
    add("--kills", type=int, default=KILLS, help=text)
    add("--seed", type=int, default=0, help="another one gives other damage")
    text = "only this kind (kill: all kills), or one case of it"
    add("--only", default="", metavar="KIND[:INDEX]", help=text)
    text = "JSON, and a table in Markdown beside it; default, without --only: results/attack.json"
    add("--out", type=Path, metavar="FILE", help=text)
    options = parser.parse_args()
    if options.only.partition(":")[0] not in ("", "kill", *KINDS):
        parser.error(f"--only takes one of {', '.join(KINDS)}, or kill")
    if not (options.only or options.out):
        options.out = Path("results/attack.json")
    return options


def main() -> int:
    options = parse_options()
    sys.stdout.reconfigure(errors="backslashreplace")  # messages have what files have
    only, _, index = options.only.partition(":")
    cases = [(only, int(index))] if index else list_cases(options.files)
    cases = [case for case in cases if only in ("", case[0])]
    os.environ["OMP_NUM_THREADS"] = "1"  # sums of several threads differ
    torch.set_num_threads(1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([Worker.__module__])
    server = context.Process(target=int)
    server.start()
    with tempfile.TemporaryDirectory(prefix="attack_") as folder:
        world = Path(folder) / "world"
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            make_world(world)
        server.join()
        rows = attack_files(cases, world, options.seed) if cases else []
        if only in ("", "kill"):
            rows += attack_writers(options.kills, world, options.seed)
    keys = ("kind", "index", "outcome", "why")
    failures = [dict(zip(keys, row, strict=True)) for row in rows if row[2] in FAILURES]
    for failure in failures:
        print("{kind}:{index} {outcome}: {why}".format(**failure))
    table = tabulate(rows)
    print(table.to_string())
    if options.out:
        info = {key: getattr(options, key) for key in ("files", "kills", "seed")}
        info |= {"table": table.reset_index().to_dict("records"), "failures": failures}
        write_json(options.out, info | environment_info("cpu"))
        options.out.with_suffix(".md").write_text(markdown(table))
        print(options.out)
    return int(table.loc["all", list(FATAL)].any())


if __name__ == "__main__":
    sys.exit(main())
