"""Supports of flows: named where NumPyro has a name, images elsewhere."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import AffineTransform, ComposeTransform, ExpTransform

import flowdists as fd
from tests.draws import drawn
from tests.flow.examples import build, flow_of, recipes
from tests.tolerances import AGREE_F32

INTERVAL = fd.to_support(constraints.interval(0.0, 1.0))
KEY = jax.random.key(0)


@functools.cache
def shift():
    return fd.Affine(np.array([1.0, -1.0], np.float32), np.array([2.0, 0.5], np.float32))


@functools.cache
def circular():
    options = {"tails": "circular", "bound": 2.0, "num_bins": 3, "hidden_sizes": (4,)}
    return drawn(lambda key: fd.SplineCoupling(key, (2,), **options), 0.05)


def interval_of_two(low, high):
    return constraints.independent(constraints.interval(low, high), 1)


# Flows whose support NumPyro has a name for.
NAMED_SUPPORTS = {
    "nothing bounded": (
        lambda: flow_of(fd.StandardNormal((2,)), shift(), fd.Reverse((2,))),
        constraints.real_vector,
    ),
    "bounded at last": (
        lambda: flow_of(fd.StandardNormal((2,)), shift(), INTERVAL),
        interval_of_two(0.0, 1.0),
    ),
    "in a nested chain": (
        lambda: flow_of(
            fd.StandardNormal((2,)),
            shift(),
            fd.Chain([shift(), fd.Inverse(fd.Chain([INTERVAL.inv, shift()]))]),
        ),
        interval_of_two(0.0, 1.0),
    ),
    "simplex": (
        lambda: flow_of(fd.StandardNormal((2,)), shift(), fd.to_support(constraints.simplex)),
        constraints.simplex,
    ),
    "and back": (
        lambda: flow_of(
            fd.StandardNormal((2,)),
            fd.to_support(constraints.simplex),
            fd.to_support(constraints.simplex).inv,
            shift(),
        ),
        constraints.real_vector,
    ),
    "from a bounded base": (
        lambda: flow_of(fd.StandardUniform((2,)), INTERVAL.inv, shift()),
        constraints.real_vector,
    ),
    "a circle": (
        lambda: flow_of(
            fd.StandardUniform((2,), -2.0, 2.0),
            circular(),
            fd.Repeat.stack([circular(), circular()]),
        ),
        interval_of_two(-2.0, 2.0),
    ),
    "a circle, from unbounded space": (
        lambda: flow_of(
            fd.StandardNormal((2,)), fd.to_support(constraints.interval(-2.0, 2.0)), circular()
        ),
        interval_of_two(-2.0, 2.0),
    ),
    "an affine map of distrax": (
        lambda: flow_of(fd.StandardNormal((2,)), distrax.Block(distrax.ScalarAffine(1.0, 2.0), 1)),
        constraints.real_vector,
    ),
}

# Flows whose support is an image, a point inside of it, and points outside.
IMAGES = {
    "a bounded base": (
        lambda: flow_of(fd.StandardUniform((2,)), shift()),
        [1.5, -0.9],
        [[0.5, -0.9], [1.5, -0.4], [9.0, 9.0]],
    ),
    "a bounded base of numpyro": (
        lambda: flow_of(dist.Gamma(jnp.array([0.5, 2.0])).to_event(1), shift()),
        [1.5, -0.9],
        [[0.5, -0.9], [-9.0, -9.0]],
    ),
    "a bounded layer": (
        lambda: flow_of(fd.StandardNormal((2,)), shift(), INTERVAL, shift()),
        [1.5, -0.9],
        [[0.5, -0.9], [9.0, 9.0]],
    ),
    "transforms composed by numpyro": (
        lambda: flow_of(
            fd.StandardNormal((2,)), ComposeTransform([ExpTransform(), AffineTransform(1.0, 2.0)])
        ),
        [1.5, 2.0],
        [[0.5, 2.0], [-1.0, 2.0]],
    ),
    "the inverse of a logarithm": (
        lambda: flow_of(fd.StandardNormal((2,)), fd.Inverse(ExpTransform().inv), shift()),
        [1.5, 2.0],
        [[0.5, 2.0], [-1.0, 2.0]],
    ),
    "a circle inside of another": (
        lambda: flow_of(fd.StandardUniform((2,)), circular()),
        [0.5, 0.5],
        [[0.5, -0.5], [1.5, 0.5]],
    ),
    "a flow as base": (
        lambda: flow_of(fd.Flow(fd.StandardUniform((2,)), shift()), shift()),
        [4.0, -1.4],
        [[2.0, -1.4], [9.0, 9.0]],
    ),
}


def assert_density_inside_alone(flow, inside, outside):
    """Of two-dimensional points; gradients are finite everywhere, and NaN stays NaN."""
    points = np.array([inside, *outside, [np.nan, inside[1]]], np.float32)
    value_and_grad = jax.jit(jax.vmap(jax.value_and_grad(flow.log_prob)))
    scores, gradients = map(np.asarray, value_and_grad(points))
    assert np.isfinite(scores[0])
    assert (scores[1:-1] == -np.inf).all()
    assert np.isnan(scores[-1])
    assert np.isfinite(gradients[:-1]).all()


def draw_and_check(flow, points):
    """Whether draws, the points (by a copy of the support) and some feasible ones lie in it."""
    support = flow.support
    copied = jax.tree.map(lambda leaf: leaf, support)

    @jax.jit
    def run(key, points):
        feasible = support.feasible_like(jnp.ones((3, 2)))
        return support(flow.sample(key, (100,))), copied(points), feasible, support(feasible)

    return map(np.asarray, run(KEY, np.array(points, np.float32)))


class TestSupports:
    @pytest.mark.parametrize("name", sorted(NAMED_SUPPORTS))
    def test_known_images_are_numpyro_constraints(self, name):
        make, expected = NAMED_SUPPORTS[name]
        flow = make()
        assert flow.support.event_dim == flow.event_dim
        assert flow.support == expected
        assert np.all(jax.jit(lambda key: flow.support(flow.sample(key, (100,))))(KEY))

    @recipes
    def test_unbounded_flows_have_numpyro_singletons(self, name):
        assert build(name).support is constraints.real_vector

    @pytest.mark.parametrize("name", sorted(IMAGES))
    def test_images(self, name):
        make, inside, outside = IMAGES[name]
        flow = make()
        support = flow.support
        assert support.event_dim == 1
        assert not support.is_discrete
        draws, at_points, feasible, at_feasible = draw_and_check(
            flow, [inside, *outside, [np.nan, inside[1]]]
        )
        assert draws.all()
        np.testing.assert_array_equal(at_points, [True] + [False] * (len(outside) + 1))
        assert feasible.shape == (3, 2)
        assert at_feasible.all()
        assert support == flow.support
        assert support != flow.replace(bijector=fd.Chain([flow.bijector, shift()])).support
        assert "Image" in repr(support)

    @pytest.mark.parametrize("name", sorted(IMAGES))
    def test_no_density_outside_of_an_image_and_no_nan(self, name):
        make, inside, outside = IMAGES[name]
        assert_density_inside_alone(make(), inside, outside)

    def test_no_density_at_bounds_inside_of_a_chain(self):
        flow = flow_of(fd.StandardNormal((2,)), shift(), INTERVAL, shift())
        at_bounds = np.array([[3.0, -0.9], [1.5, -1.0], [1.0, -0.5]], np.float32)
        inside, scores = jax.jit(lambda x: (flow.support(x), flow.log_prob(x)))(at_bounds)
        assert np.all(inside)
        np.testing.assert_array_equal(scores, -np.inf)

    def test_bijectors_of_distrax_lead_anywhere(self):
        tanh = distrax.Block(distrax.Tanh(), 1)
        for layer in (tanh, fd.Inverse(distrax.Inverse(tanh))):
            support = flow_of(fd.StandardNormal((2,)), layer).support
            run = jax.jit(lambda x, s=support: (s(x), s(biject_to(s)(jnp.ones(2)))))
            at_points, mapped = run(np.array([[0.5, -0.9], [0.5, 1.5]], np.float32))
            np.testing.assert_array_equal(at_points, [True, False])
            assert mapped

    def test_a_simplex_is_checked_as_such(self):
        simplex = fd.to_support(constraints.simplex)
        flow = flow_of(fd.StandardUniform((2,)), shift(), simplex)

        @jax.jit
        def run(key):
            x = flow.sample(key, (100,))
            return flow.support(x), flow.support(x + jnp.array([0.0, 0.0, 0.1]))

        inside, off_the_simplex = run(KEY)
        assert np.all(inside)
        assert not np.any(off_the_simplex)

    def test_wider_events(self):
        flow = fd.Flow(fd.StandardUniform((2,), batch_shape=(3,)), shift())
        wide = flow.to_event(1)
        assert isinstance(wide, fd.Flow)
        assert (wide.batch_shape, wide.event_shape) == ((), (3, 2))
        assert wide.support.event_dim == 2
        assert flow.to_event(0).batch_shape == (3,)

        @jax.jit
        def run(key, offset):
            x = wide.sample(key, (5,)) + offset
            each, together = ((given.support(x), given.log_prob(x)) for given in (flow, wide))
            return each, together

        # Some rows of the second half lie outside.
        offset = np.where(np.arange(5) < 3, 0.0, 0.4).astype(np.float32)[:, None, None]
        (inside, scores), (wide_inside, wide_scores) = jax.tree.map(np.asarray, run(KEY, offset))
        assert inside[:3].all() and not inside.all()
        np.testing.assert_array_equal(wide_inside, inside.all(-1))
        np.testing.assert_allclose(wide_scores, scores.sum(-1), rtol=AGREE_F32)

    def test_a_support_is_the_same_in_and_out_of_a_trace(self):
        """Samplers map with the one what they have drawn with the other."""
        flows = [make() for make, *_ in (NAMED_SUPPORTS | IMAGES).values()]
        uniform = dist.Uniform(-2.0, 2.0).expand([2]).to_event(1)
        flows.append(fd.Flow(uniform, circular()))
        for flow in flows:
            traced = jax.eval_shape(lambda flow: flow.support, flow)
            assert jax.tree.structure(traced) == jax.tree.structure(flow.support)

        def around(bound):
            bounds = constraints.interval(0.0, bound)
            base = dist.Uniform(0.0, bound).expand([2]).to_event(1)
            return fd.Flow(base, fd.Chain([fd.to_support(bounds).inv, shift()])).support

        traced, known = jax.eval_shape(around, 1.0), around(jnp.array(1.0))
        assert type(traced) is type(known)

    def test_flows_of_a_stack_have_supports_of_their_own(self):
        @jax.jit
        def run(locs, x):
            def one(loc):
                flow = fd.Flow(fd.StandardUniform((2,)), fd.Affine(loc, jnp.ones(2)))
                return flow.support(x), flow.log_prob(x)

            return jax.vmap(one)(locs)

        inside, scores = run(np.array([[0.0, 0.0], [5.0, 5.0]]), np.full(2, 0.5))
        np.testing.assert_array_equal(inside, [True, False])
        np.testing.assert_array_equal(scores, [0.0, -np.inf])

    @pytest.mark.parametrize(
        ("constraint", "inside", "outside"),
        [
            (constraints.interval(0.0, 1.0), [0.5, 0.2], [[0.5, 1.0], [0.0, 0.5], [0.5, 2.0]]),
            (constraints.positive, [0.5, 2.0], [[0.5, 0.0], [-1.0, 0.5]]),
            (constraints.less_than(2.0), [0.5, -9.0], [[0.5, 2.0], [3.0, 0.5]]),
        ],
    )
    def test_no_density_at_or_beyond_the_bounds_and_no_nan(self, constraint, inside, outside):
        flow = fd.Flow(fd.StandardNormal((2,)), fd.to_support(constraint), validate_args=False)
        assert_density_inside_alone(flow, inside, outside)


def test_a_bounded_layer_and_its_inverse_are_onto_all_numbers():
    pixels = fd.PixelLogit((2, 3))
    flow = fd.Flow(fd.StandardNormal((2, 3)), fd.Chain([pixels, pixels.inv]))
    assert flow.support is constraints.real_matrix
