"""What of a flow can be observed, told from its structure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions.transforms import LowerCholeskyAffine

import flowdists as fd
from flowdists.conditionals.dependence import dependence
from flowdists.conditionals.given import given
from tests.conditionals.flows import few, made, standard
from tests.draws import drawn


def linear():
    return drawn(lambda key: fd.LULinear(key, (2,)))


# Flows, what can be observed of them, and what cannot be.
STRUCTURES = {
    "one coupling": (lambda: few("RealNVP", num_layers=1), [(0,), (2, 0)], [(1,), (0, 3)]),
    "couplings": (lambda: few("RealNVP"), [], [(0,), (1, 2, 3)]),
    "one layer": (lambda: few("MAF", num_layers=1), [(0,), (2, 1, 0)], [(1,), (0, 2)]),
    "alternating": (lambda: few("MAF"), [], [(0,), (3,), (0, 1, 2)]),
    "alternating and inverse": (lambda: few("IAF", 3), [], [(0,), (2,)]),
    "inverse": (lambda: few("IAF", 3, order=(2, 0, 1)), [(2,), (0, 2)], [(0,), (1, 2)]),
    "splines in couplings": (lambda: few("NSF"), [], [(0,), (0, 1)]),
    "mixed splines": (lambda: few("NSF", 3, autoregressive=True), [], [(0,), (0, 1)]),
    "glow": (lambda: few("Glow1D", num_layers=1), [], [(0,), (0, 1)]),
    "then permuted": (
        lambda: standard(3, made(3), fd.Permute((2, 0, 1))),
        [(1,), (1, 2)],
        [(0,), (0, 2)],
    ),
    "permuted between": (
        lambda: standard(3, made(3), fd.Reverse((3,)), made(3, order="descending")),
        [(2,), (1, 2)],
        [(0,), (0, 2)],
    ),
    "somebody else's": (
        lambda: standard(3, LowerCholeskyAffine(np.zeros(3), np.tri(3))),
        [(0,), (0, 1)],
        [(1,), (0, 2)],
    ),
    "side by side": (
        lambda: standard(4, fd.Concatenated([linear(), made(2)], [(2,), (2,)])),
        [(0, 1), (2,), (0, 1, 2)],
        [(0,), (3,), (1, 2)],
    ),
}


class TestStructure:
    @pytest.mark.parametrize("name", sorted(STRUCTURES))
    def test_decides_what_can_be_observed(self, name):
        make, possible, impossible = STRUCTURES[name]
        flow = make()
        size = flow.event_shape[0]
        for indices in possible:
            rest = given(flow, indices, np.zeros(len(indices), np.float32))
            assert rest.event_shape == (size - len(indices),)
        for indices in impossible:
            with pytest.raises(ValueError, match="cannot be observed alone"):
                given(flow, indices, np.zeros(len(indices), np.float32))

    @pytest.mark.parametrize("residual", [False, True])
    @pytest.mark.parametrize("hidden_sizes", [(1,), (3, 3), (5,) * 6, (40, 40)])
    def test_networks_pass_on_what_their_masks_let_through(self, hidden_sizes, residual):
        """Even with one unit each in many layers, of which half are dead at random points."""
        layer = made(6, hidden_sizes=hidden_sizes, residual=residual, order=(3, 0, 5, 2, 1, 4))
        architecture = layer.network.architecture
        levels = np.repeat(np.arange(architecture.num_levels), architecture.input_sizes)
        expected = np.zeros((6, 6), bool)
        expected[np.ix_(layer.network.order, layer.network.order)] = (
            levels[:, None] > levels[None, :]
        ) | np.eye(6, dtype=bool)
        np.testing.assert_array_equal(dependence(layer, 6).pattern, expected)

    def test_narrow_splines(self):
        layer = made(3, transformer=fd.RationalQuadratic(bound=1e-3))
        np.testing.assert_array_equal(dependence(layer, 3).pattern, np.tri(3, dtype=bool))

    def test_does_not_hang_on_parameters(self):
        """Where they are zero, and a flow the identity, each element looks free of the others."""
        score = jax.jit(lambda f: given(f, (0,), jnp.ones(1)).log_prob(jnp.ones(3)))
        for tree in (few("MAF"), jax.tree.map(np.zeros_like, few("MAF"))):
            with pytest.raises(ValueError, match="cannot be observed"):
                score(tree)
