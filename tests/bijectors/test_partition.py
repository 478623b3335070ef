"""Which elements a coupling changes: those that its mask says."""

import jax
import numpy as np
import pytest

import flowdists as fd
from tests.bijectors.evaluation import evaluation

ODD = np.indices((2, 3)).sum(0) % 2 == 1
CHANGED = {
    "layer:affine_coupling": [False, False, True, True, True],
    "layer:affine_coupling_flipped": [True, True, False, False, False],
    "layer:affine_coupling_checkerboard": ODD,
    "layer:affine_coupling_channel": np.broadcast_to([False, True, True], (2, 1, 3)),
    "layer:affine_coupling_given_mask": [[False, True], [True, True]],
    "layer:spline_coupling": [False, False, True, True],
    "layer:spline_coupling_residual": [False, True, False, True],
    "layer:conv_coupling": np.broadcast_to([False, True, True], (3, 2, 3)),
    "layer:conv_coupling_flipped": np.broadcast_to([True, False, False], (2, 2, 3)),
    "layer:conv_coupling_checkerboard": np.broadcast_to(ODD[..., None], (2, 3, 2)),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_the_mask_keeps_is_kept(name):
    result = evaluation(name)
    changed = (result.batched["y"] != result.x).any((0, 1))
    np.testing.assert_array_equal(changed, CHANGED[name])


def test_one_element_cannot_be_split():
    with pytest.raises(ValueError, match=r"at least 2 elements.* autoregressive"):
        fd.AffineCoupling(jax.random.key(0), (1,))
