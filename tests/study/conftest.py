"""A small study."""

import pytest

from tests.helpers.trainings import QUICK
from vocseg_lib.study.study import Study


@pytest.fixture
def study(devkit, tmp_path) -> Study:
    """Six iterations of small models on the synthetic devkit."""
    recipe = QUICK.with_changes(batch_size=2, iterations=6, eval_every=3, checkpoint_every=6)
    return Study(recipe=recipe, devkit=devkit, results=tmp_path)
