"""CSV files of results, checked; tables and AP with intervals as nested dicts."""

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype as is_numeric

from vocseg_lib.metrics import bootstrap
from vocseg_lib.metrics.bootstrap import Sampled
from vocseg_lib.utils.files import naming_damage

NUMBERS = ["value", "low", "high", "points", "count", "difference"]


def read_table(path: Path, columns: str) -> pd.DataFrame:
    """A CSV file that has some columns, and rows. Raises ValueError, naming it."""
    names = columns.split("," if "," in columns else None)
    with naming_damage(path):
        table = pd.read_csv(path)
        if table[names].empty or not table[names].filter(NUMBERS).dtypes.map(is_numeric).all():
            raise ValueError("no row, or a text where a number is expected")
    return table


def nest(table: pd.DataFrame, *keys: str) -> dict:
    """A table as nested dicts by its key columns."""
    if not keys:
        return table.iloc[0].to_dict()
    groups = table.groupby(keys[0], sort=False)
    return {key: nest(part.drop(columns=keys[0]), *keys[1:]) for key, part in groups}


def headline(evaluated: Sampled) -> dict:
    """COCO's AP, AP50 and AP75 with intervals, by IoU type and metric."""
    return over_classes(bootstrap.intervals_table(evaluated).dropna(subset=["low"]))


def difference(first: Sampled, second: Sampled) -> dict:
    """AP of the first - AP of the second, paired, by IoU type and metric."""
    return over_classes(bootstrap.paired_differences(first, second), "difference")


def over_classes(table: pd.DataFrame, value: str = "value") -> dict:
    """A column of a table of metrics and its interval, by IoU type and metric."""
    rows = table[table["class"] == "all"].itertuples()
    return {f"{row.kind}_{row.metric}": bounds(row, value) for row in rows}


def bounds(row: object, value: str) -> dict:
    """A row's value and interval, and what share of its variance is the training's."""
    ends = {"value": getattr(row, value), "low": row.low, "high": row.high}
    share = getattr(row, "training_share", np.nan)
    return ends if np.isnan(share) else {**ends, "training_share": share}
