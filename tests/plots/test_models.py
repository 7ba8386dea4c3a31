import numpy as np
import torch

from tests.helpers.figures import is_labeled
from vocseg_lib.plots.models import coefficients, prototypes, stages


def test_prototypes_coefficients_and_stages():
    assert len(prototypes(torch.rand(9, 9, 32))) == 32
    assert is_labeled(coefficients([torch.rand(32), torch.rand(32)], ["a", "b"]))
    axes = stages([np.eye(4), np.zeros((4, 4, 3))], ["map", "image"], "title", "caption")
    assert len(axes[0].figure.axes) == 3  # the map has a color bar
