import shutil
from pathlib import Path

import pytest

from tests.helpers.trainings import QUICK
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.study import Study
from vocseg_lib.study.train import train_model

SHORT = QUICK.with_changes(iterations=4, batch_size=2, eval_every=2, checkpoint_every=2)


@pytest.fixture
def study(devkit, tmp_path) -> Study:
    """Four iterations of small models on the synthetic devkit."""
    return Study(recipe=SHORT, devkit=devkit, results=tmp_path)


@pytest.fixture(scope="session")
def runs(devkit, tmp_path_factory) -> Path:
    study = Study(recipe=SHORT, devkit=devkit, results=tmp_path_factory.mktemp("trained"))
    for name in MODEL_TITLES:
        train_model(study, name)
    return study.results / "runs"


@pytest.fixture
def trained(study, runs) -> Study:
    """The study with its own copy of both models' run folders."""
    shutil.copytree(runs, study.results / "runs")
    return study
