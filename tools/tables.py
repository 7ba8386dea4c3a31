"""CSV files of results, checked, and tables as nested dicts."""

from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype as is_numeric

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
