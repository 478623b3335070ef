"""Flows as distributions: densities, samples, shapes, bases, contexts, cost."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import AffineTransform, ComposeTransform, ExpTransform
from scipy import stats

import flowdists as fd
from tests import table
from tests.tolerances import (
    AGREE_F32,
    FINITE_DIFFERENCE_F64,
    INTEGRAL,
    LOG_DET_F64,
    P_VALUE,
    ROUND_TRIP_F32,
)

ONE_DIMENSIONAL = ["maf", "iaf", "nsf_autoregressive"]
recipes = pytest.mark.parametrize("name", sorted(table.RECIPES))


def log_prob(flow, x):
    return np.asarray(jax.jit(lambda flow, x: flow.log_prob(x))(flow, x))


def grid(points: int, half_width: float):
    axis = jnp.linspace(-half_width, half_width, points)
    return axis, float(axis[1] - axis[0])


class TestDensity:
    @pytest.mark.parametrize("name", ONE_DIMENSIONAL)
    def test_integrates_to_one_and_is_that_of_the_samples_in_one_dimension(self, name, x64):
        flow = table.build_flow(name, (1,))
        axis, step = grid(20_001, 40.0)
        density = np.exp(log_prob(flow, axis[:, None]))
        cdf = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * step)])
        assert abs(cdf[-1] - 1) < INTEGRAL
        samples = flow.sample(jax.random.key(1), (5000,))[:, 0]
        uniform = np.interp(samples, axis, cdf)
        assert stats.kstest(uniform, "uniform").pvalue > P_VALUE

    @recipes
    def test_integrates_to_one_and_is_that_of_the_samples_in_two_dimensions(self, name, x64):
        flow = table.build_flow(name, (2,), scale=0.2)
        points, cells = 960, 24
        axis, step = grid(points, 16.0)
        centers = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        mass = np.exp(log_prob(flow, centers)).reshape(points, points) * step**2
        assert abs(mass.sum() - 1) < INTEGRAL
        expected = mass.reshape(cells, points // cells, cells, points // cells).sum((1, 3)).ravel()
        samples = np.asarray(flow.sample(jax.random.key(1), (20_000,)))
        edges = np.linspace(-16 - step / 2, 16 + step / 2, cells + 1)
        counts = np.histogram2d(*samples.T, [edges, edges])[0].ravel()
        full = expected * len(samples) > 10
        observed = np.append(counts[full], len(samples) - counts[full].sum())
        wanted = np.append(expected[full], 1 - expected[full].sum()) * len(samples)
        assert stats.chisquare(observed, wanted).pvalue > P_VALUE

    @recipes
    def test_sample_and_log_prob_agree_with_log_prob(self, name, x64):
        flow = table.build_flow(name)
        x, scores = flow.sample_and_log_prob(jax.random.key(0), (2, 5))
        assert x.shape == (2, 5, 4)
        np.testing.assert_allclose(scores, log_prob(flow, x), rtol=LOG_DET_F64, atol=LOG_DET_F64)
        np.testing.assert_array_equal(x, flow.sample(jax.random.key(0), (2, 5)))

    @recipes
    def test_a_new_flow_is_its_base(self, name):
        for base in (None, dist.StudentT(4.0), fd.StandardUniform((3,), -1.0, 1.0)):
            flow = table.RECIPES[name](jax.random.key(0), (3,), base=base)
            z = 0.9 * jnp.linspace(-1, 1, 6).reshape(2, 3)
            np.testing.assert_allclose(flow.bijector(z), z, atol=AGREE_F32)
            expected = flow.base_dist.log_prob(z)
            np.testing.assert_allclose(flow.log_prob(z), expected, rtol=1e-5)

    @recipes
    def test_values_and_gradients_are_finite_far_out(self, name):
        flow = table.build_flow(name)
        bijector = jax.tree.map(lambda leaf: 0.2 * leaf, flow.bijector)
        far = np.array([0.0, 1.0, 3.0, 1e2, 1e4, 1e6])
        points = np.concatenate([far, -far])
        x = np.stack([np.roll(points, shift) for shift in range(4)], -1)
        x = jnp.concatenate([x, np.repeat(points[:, None], 4, 1)]).astype(jnp.float32)

        @jax.jit
        def value_and_gradients(bijector, x):
            score = lambda bijector, x: flow.replace(bijector=bijector).log_prob(x)
            scores = jax.vmap(jax.value_and_grad(score, (0, 1)), (None, 0))(bijector, x)
            return scores, bijector.forward_and_log_det(x)

        for leaf in jax.tree.leaves(value_and_gradients(bijector, x)):
            assert jnp.isfinite(leaf).all()

    @recipes
    def test_single_precision_round_trips_at_depth_16(self, name):
        options = {"num_layers": 16, "hidden_sizes": (32, 32)}
        recipe = table.RECIPES[name].func
        if name == "nsf_autoregressive":
            options["autoregressive"] = True
        flow = jax.jit(lambda key: recipe(key, (6,), **options))(jax.random.key(0))
        bijector = table.perturb(jax.random.key(1), flow.bijector, 0.05)
        z = jax.random.normal(jax.random.key(2), (256, 6))
        x, log_det = jax.jit(bijector.forward_and_log_det)(z)
        back, inverse_log_det = jax.jit(bijector.inverse_and_log_det)(x)
        np.testing.assert_allclose(back, z, rtol=ROUND_TRIP_F32, atol=ROUND_TRIP_F32)
        np.testing.assert_allclose(
            inverse_log_det, -log_det, rtol=ROUND_TRIP_F32, atol=10 * ROUND_TRIP_F32
        )


class TestCost:
    def test_a_gradient_evaluates_each_network_once(self):
        """NumPyro's own log_prob, of the same layer, goes through the networks twice."""
        flow = fd.MAF(jax.random.key(0), (16,), num_layers=4, hidden_sizes=(128, 128))
        plain = lambda b: dist.TransformedDistribution(
            dist.Normal(0, 1).expand([16]).to_event(1), [b]
        )
        x = jnp.ones((64, 16))

        def flops(density):
            loss = jax.jit(jax.grad(lambda b: density(b).log_prob(x).sum()))
            return loss.lower(flow.bijector).compile().cost_analysis()["flops"]

        assert flops(lambda b: flow.replace(bijector=b)) < 0.7 * flops(plain)

    @recipes
    def test_the_program_does_not_grow_with_depth(self, name):
        recipe = table.RECIPES[name].func
        extra = {"autoregressive": True} if name == "nsf_autoregressive" else {}

        def size(num_layers):
            make = lambda key: recipe(
                key, (4,), num_layers=num_layers, hidden_sizes=(16, 16), **extra
            )
            flow = jax.eval_shape(make, jax.random.key(0))
            loss = lambda b, x: flow.replace(bijector=b).log_prob(x).sum()
            x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
            return len(jax.jit(jax.value_and_grad(loss)).lower(flow.bijector, x).as_text())

        assert size(32) <= 1.1 * size(4)

    def test_one_compilation_for_all_parameters_and_contexts(self):
        traces = []
        flow = table.build_flow("maf", (3,), context_shape=(2,))

        @jax.jit
        def score(flow, context, x):
            traces.append(None)
            return flow.condition(context).log_prob(x)

        for shift in (0.0, 1.0):
            moved = jax.tree.map(lambda leaf, s=shift: leaf + s, flow)
            score(moved, jnp.full((5, 2), shift), jnp.ones((5, 3)))
        assert len(traces) == 1


class TestShapes:
    def test_expand_to_event_and_mask(self):
        flow = table.build_flow("real_nvp")
        x = jax.random.normal(jax.random.key(0), (5, 3, 4))
        wide = flow.expand((3,))
        assert isinstance(wide, fd.Flow)
        assert (wide.batch_shape, wide.event_shape) == ((3,), (4,))
        assert wide.sample(jax.random.key(0), (5,)).shape == (5, 3, 4)
        np.testing.assert_allclose(wide.log_prob(x), flow.log_prob(x), rtol=1e-5)
        joint = wide.to_event(1)
        assert joint.event_shape == (3, 4)
        np.testing.assert_allclose(joint.log_prob(x), flow.log_prob(x).sum(-1), rtol=1e-5)
        masked = wide.mask(jnp.array([True, False, True]))
        np.testing.assert_allclose(masked.log_prob(x)[:, 1], 0.0)
        with pytest.raises(ValueError, match="batch_shape"):
            wide.expand((2,))

    def test_a_scalar_layer_on_a_vector_base(self):
        flow = fd.Flow(fd.StandardNormal((3,)), fd.RationalQuadraticSpline(()))
        assert flow.event_shape == (3,)
        x = jnp.array([[0.1, 0.2, 5.0]])
        np.testing.assert_allclose(
            flow.log_prob(x), fd.StandardNormal((3,)).log_prob(x), rtol=AGREE_F32
        )

    def test_the_pytree_of_a_flow_is_its_parameters(self):
        flow = table.build_flow("nsf")
        assert len(jax.tree.leaves(flow)) == len(jax.tree.leaves(flow.bijector))
        gradient = jax.grad(lambda flow: flow.log_prob(jnp.ones(4)))(flow)
        assert isinstance(gradient, fd.Flow)
        assert gradient.recipe == flow.recipe
        stacked = jax.vmap(lambda key: fd.MAF(key, (3,), num_layers=2, hidden_sizes=(8,)))(
            jax.random.split(jax.random.key(0), 4)
        )
        assert jax.vmap(lambda f: f.log_prob(jnp.ones(3)))(stacked).shape == (4,)

    @recipes
    def test_empty_batches(self, name):
        flow = table.build_flow(name)
        flow = fd.Flow(flow.base, flow.bijector, validate_args=False)  # NumPyro's check fails here
        x, scores = flow.sample_and_log_prob(jax.random.key(0), (0,))
        assert (x.shape, scores.shape) == ((0, 4), (0,))
        assert flow.log_prob(x).shape == (0,)

    @recipes
    def test_low_precision_networks_give_single_precision_densities(self, name):
        flow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), table.build_flow(name))
        x = jnp.ones((3, 4), jnp.bfloat16)
        assert flow.log_prob(x).dtype == jnp.float32

    def test_events_of_any_rank(self):
        for name in ("real_nvp", "maf", "nsf"):
            flow = table.build_flow(name, (2, 3))
            x, scores = flow.sample_and_log_prob(jax.random.key(0), (5,))
            assert (x.shape, scores.shape) == ((5, 2, 3), (5,))
            assert flow.support.event_dim == 2


class TestBases:
    def test_uniform_has_no_density_outside_and_keeps_nan(self):
        base = fd.StandardUniform((2,), -1.0, 1.0, validate_args=False)
        flow = fd.Flow(base, fd.Reverse((2,)), validate_args=False)
        x = jnp.array([[0.5, -0.5], [0.5, 1.5], [jnp.nan, 0.0], [jnp.nan, 2.0]])
        scores = flow.log_prob(x)
        np.testing.assert_allclose(scores[0], -2 * np.log(2), rtol=AGREE_F32)
        assert scores[1] == -jnp.inf
        assert jnp.isnan(scores[2:]).all()

    def test_numpyro_bounded_bases_have_no_density_outside(self):
        uniform = dist.Uniform(-1.0, 1.0, validate_args=False)
        flow = fd.Flow(uniform.expand([2]).to_event(1), fd.Reverse((2,)), validate_args=False)
        scores = flow.log_prob(jnp.array([[0.5, 0.0], [0.5, 1.5], [0.5, jnp.nan]]))
        assert jnp.isfinite(scores[0])
        assert scores[1] == -jnp.inf
        assert jnp.isnan(scores[2])

    def test_gradients_reach_a_bases_parameters(self):
        flow = lambda loc: fd.Flow(dist.Normal(loc, 1.0).expand([2]).to_event(1), fd.Reverse((2,)))
        gradient = jax.grad(lambda loc: flow(loc).log_prob(jnp.array([1.0, 3.0])))(0.0)
        np.testing.assert_allclose(gradient, 4.0, rtol=AGREE_F32)

    def test_shapes_of_bases_in_recipes(self):
        for base in (
            dist.StudentT(5.0),
            dist.Laplace(jnp.zeros(3), 1.0),
            dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3)),
        ):
            flow = table.RECIPES["real_nvp"](jax.random.key(0), (3,), base=base)
            assert (flow.batch_shape, flow.event_shape) == ((), (3,))

    def test_temperature_scales_the_base(self, x64):
        flow = table.build_flow("nsf")
        cold = flow.with_temperature(0.5)
        z = fd.StandardNormal((4,)).sample(jax.random.key(0), (5,))
        np.testing.assert_allclose(
            cold.sample(jax.random.key(0), (5,)), flow.bijector(0.5 * z), rtol=1e-5, atol=1e-5
        )
        x, log_det = flow.bijector.forward_and_log_det(z)
        expected = dist.Normal(0, 0.5).log_prob(z).sum(-1) - log_det
        np.testing.assert_allclose(cold.log_prob(x), expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        frozen = flow.with_temperature(0.0).sample(jax.random.key(1), (2,))
        np.testing.assert_array_equal(frozen[0], frozen[1])
        heavy = table.RECIPES["maf"](jax.random.key(0), (3,), base=dist.StudentT(5.0, 0.0, 2.0))
        tempered = heavy.with_temperature(3.0).log_prob(jnp.ones(3))
        np.testing.assert_allclose(
            tempered, dist.StudentT(5.0, 0.0, 6.0).log_prob(jnp.ones(3)).sum(), rtol=1e-5
        )
        assert cold.recipe == flow.recipe
        logistic = fd.Flow(fd.StandardLogistic((2,)), fd.Reverse((2,))).with_temperature(3.0)
        expected = dist.Logistic(0.0, 3.0).log_prob(jnp.ones(2)).sum()
        np.testing.assert_allclose(logistic.log_prob(jnp.ones(2)), expected, rtol=AGREE_F32)
        with pytest.raises(TypeError, match="StandardUniform"):
            fd.Flow(fd.StandardUniform((2,)), fd.Reverse((2,))).with_temperature(0.5)
        with pytest.raises(ValueError, match="temperature"):
            flow.with_temperature(-1.0)


def test_the_logistic_base_is_that_of_numpyro(x64):
    base, theirs = fd.StandardLogistic((2,)), dist.Logistic().expand((2,)).to_event(1)
    assert not jax.tree.leaves(base)
    z = jnp.array([[0.0, 1.0], [-30.0, 700.0], [-1e6, 1e6]])
    np.testing.assert_allclose(base.log_prob(z), theirs.log_prob(z), rtol=LOG_DET_F64)
    draws = base.expand((5000,)).sample(jax.random.key(0))
    assert stats.kstest(draws.ravel(), "logistic").pvalue > P_VALUE
    np.testing.assert_allclose(base.variance, theirs.variance, rtol=LOG_DET_F64)


INTERVAL = fd.to_support(constraints.interval(0.0, 1.0))
SHIFT = fd.Affine(jnp.array([1.0, -1.0]), jnp.array([2.0, 0.5]))


def circular():
    return fd.SplineCoupling(
        jax.random.key(0), (2,), tails="circular", bound=2.0, hidden_sizes=(4,)
    )


def interval_of_two(low, high):
    return constraints.independent(constraints.interval(low, high), 1)


def flow_of(base, *layers):
    return fd.Flow(base, fd.Chain(layers), validate_args=False)


# Flows whose support NumPyro has a name for.
NAMED_SUPPORTS = {
    "nothing bounded": (
        lambda: flow_of(fd.StandardNormal((2,)), SHIFT, fd.Reverse((2,))),
        constraints.real_vector,
    ),
    "bounded at last": (
        lambda: flow_of(fd.StandardNormal((2,)), SHIFT, INTERVAL),
        interval_of_two(0.0, 1.0),
    ),
    "in a nested chain": (
        lambda: flow_of(
            fd.StandardNormal((2,)),
            SHIFT,
            fd.Chain([SHIFT, fd.Inverse(fd.Chain([INTERVAL.inv, SHIFT]))]),
        ),
        interval_of_two(0.0, 1.0),
    ),
    "simplex": (
        lambda: flow_of(fd.StandardNormal((2,)), SHIFT, fd.to_support(constraints.simplex)),
        constraints.simplex,
    ),
    "and back": (
        lambda: flow_of(
            fd.StandardNormal((2,)),
            fd.to_support(constraints.simplex),
            fd.to_support(constraints.simplex).inv,
            SHIFT,
        ),
        constraints.real_vector,
    ),
    "from a bounded base": (
        lambda: flow_of(fd.StandardUniform((2,)), INTERVAL.inv, SHIFT),
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
        lambda: flow_of(fd.StandardUniform((2,)), SHIFT),
        [1.5, -0.9],
        [[0.5, -0.9], [1.5, -0.4], [9.0, 9.0]],
    ),
    "a bounded base of numpyro": (
        lambda: flow_of(dist.Gamma(jnp.array([0.5, 2.0])).to_event(1), SHIFT),
        [1.5, -0.9],
        [[0.5, -0.9], [-9.0, -9.0]],
    ),
    "a bounded layer": (
        lambda: flow_of(fd.StandardNormal((2,)), SHIFT, INTERVAL, SHIFT),
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
        lambda: flow_of(fd.StandardNormal((2,)), fd.Inverse(ExpTransform().inv), SHIFT),
        [1.5, 2.0],
        [[0.5, 2.0], [-1.0, 2.0]],
    ),
    "a circle inside of another": (
        lambda: flow_of(fd.StandardUniform((2,)), circular()),
        [0.5, 0.5],
        [[0.5, -0.5], [1.5, 0.5]],
    ),
    "a flow as base": (
        lambda: flow_of(fd.Flow(fd.StandardUniform((2,)), SHIFT), SHIFT),
        [4.0, -1.4],
        [[2.0, -1.4], [9.0, 9.0]],
    ),
}


class TestSupports:
    @pytest.mark.parametrize("name", sorted(NAMED_SUPPORTS))
    def test_known_images_are_numpyro_constraints(self, name):
        make, expected = NAMED_SUPPORTS[name]
        flow = make()
        assert flow.support.event_dim == flow.event_dim
        assert flow.support == expected
        assert flow.support(flow.sample(jax.random.key(0), (100,))).all()

    @recipes
    def test_unbounded_flows_have_numpyro_singletons(self, name):
        assert table.build_flow(name).support is constraints.real_vector

    @pytest.mark.parametrize("name", sorted(IMAGES))
    def test_images(self, name):
        make, inside, outside = IMAGES[name]
        flow = make()
        support = flow.support
        assert support.event_dim == 1
        assert not support.is_discrete
        assert support(flow.sample(jax.random.key(0), (100,))).all()
        np.testing.assert_array_equal(
            support(jnp.array([inside, *outside, [jnp.nan, inside[1]]])),
            [True] + [False] * (len(outside) + 1),
        )
        feasible = support.feasible_like(jnp.ones((3, 2)))
        assert feasible.shape == (3, 2)
        assert support(feasible).all()
        assert support == flow.support
        assert support != flow.replace(bijector=fd.Chain([flow.bijector, SHIFT])).support
        copied = jax.tree.map(lambda leaf: leaf, support)
        np.testing.assert_array_equal(copied(feasible), support(feasible))
        assert "Image" in repr(support)

    @pytest.mark.parametrize("name", sorted(IMAGES))
    def test_no_density_outside_of_an_image_and_no_nan(self, name):
        make, inside, outside = IMAGES[name]
        flow = make()
        value_and_grad = jax.vmap(jax.value_and_grad(flow.log_prob))
        scores, gradients = value_and_grad(jnp.array([inside, *outside]))
        assert jnp.isfinite(scores[0])
        assert (scores[1:] == -jnp.inf).all()
        assert jnp.isfinite(gradients).all()
        assert jnp.isnan(flow.log_prob(jnp.array([jnp.nan, inside[1]])))

    def test_no_density_at_bounds_inside_of_a_chain(self):
        flow = flow_of(fd.StandardNormal((2,)), SHIFT, INTERVAL, SHIFT)
        at_bounds = jnp.array([[3.0, -0.9], [1.5, -1.0], [1.0, -0.5]])
        assert flow.support(at_bounds).all()
        assert (flow.log_prob(at_bounds) == -jnp.inf).all()

    def test_bijectors_of_distrax_lead_anywhere(self):
        tanh = distrax.Block(distrax.Tanh(), 1)
        for layer in (tanh, fd.Inverse(distrax.Inverse(tanh))):
            support = flow_of(fd.StandardNormal((2,)), layer).support
            np.testing.assert_array_equal(support(jnp.array([[0.5, -0.9], [0.5, 1.5]])), [1, 0])
            assert support(biject_to(support)(jnp.ones(2)))

    def test_a_simplex_is_checked_as_such(self):
        simplex = fd.to_support(constraints.simplex)
        flow = flow_of(fd.StandardUniform((2,)), SHIFT, simplex)
        x = flow.sample(jax.random.key(0), (100,))
        assert flow.support(x).all()
        assert not flow.support(x + jnp.array([0.0, 0.0, 0.1])).any()

    def test_wider_events(self):
        flow = fd.Flow(fd.StandardUniform((2,), batch_shape=(3,)), SHIFT)
        wide = flow.to_event(1)
        assert isinstance(wide, fd.Flow)
        assert (wide.batch_shape, wide.event_shape) == ((), (3, 2))
        x = wide.sample(jax.random.key(0), (5,))
        assert wide.support.event_dim == 2
        np.testing.assert_array_equal(wide.support(x), flow.support(x).all(-1))
        np.testing.assert_allclose(wide.log_prob(x), flow.log_prob(x).sum(-1), rtol=AGREE_F32)
        assert flow.to_event(0).batch_shape == (3,)

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
            return fd.Flow(base, fd.Chain([fd.to_support(bounds).inv, SHIFT])).support

        traced, known = jax.eval_shape(around, 1.0), around(jnp.array(1.0))
        assert type(traced) is type(known)

    def test_flows_of_a_stack_have_supports_of_their_own(self):
        shifts = jax.vmap(lambda loc: fd.Affine(loc, jnp.ones(2)))(
            jnp.array([[0.0, 0.0], [5.0, 5]])
        )
        flows = jax.vmap(lambda shift: fd.Flow(fd.StandardUniform((2,)), shift))(shifts)
        x = jnp.full((2,), 0.5)
        inside = jax.vmap(lambda flow, x: flow.support(x), (0, None))(flows, x)
        np.testing.assert_array_equal(inside, [True, False])
        np.testing.assert_array_equal(
            jax.jit(jax.vmap(lambda flow, x: flow.log_prob(x), (0, None)))(flows, x),
            [0.0, -jnp.inf],
        )

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
        value_and_grad = jax.vmap(jax.value_and_grad(flow.log_prob))
        scores, gradients = value_and_grad(jnp.array([inside, *outside]))
        assert jnp.isfinite(scores[0])
        assert (scores[1:] == -jnp.inf).all()
        assert jnp.isfinite(gradients).all()
        assert jnp.isnan(flow.log_prob(jnp.array([jnp.nan, inside[1]])))


class TestContext:
    def flow(self):
        return table.build_flow("nsf", (3,), context_shape=(2,))

    def test_batched_looped_and_vmapped_agree(self):
        flow = self.flow()
        context = jax.random.normal(jax.random.key(0), (5, 2))
        x = jax.random.normal(jax.random.key(1), (7, 5, 3))
        batched = flow.condition(context)
        assert (batched.batch_shape, batched.event_shape) == ((5,), (3,))
        scores = batched.log_prob(x)
        assert scores.shape == (7, 5)
        score = jax.jit(lambda c, x: flow.condition(c).log_prob(x))
        looped = jnp.stack([score(context[i], x[:, i]) for i in range(5)], -1)
        np.testing.assert_allclose(scores, looped, rtol=1e-5, atol=1e-5)
        vmapped = jax.vmap(lambda c, x: flow.condition(c).log_prob(x), (0, 1), 1)(context, x)
        np.testing.assert_allclose(scores, vmapped, rtol=1e-5, atol=1e-5)
        samples = batched.sample(jax.random.key(0), (2,))
        assert samples.shape == (2, 5, 3)

    def test_gradients_reach_the_context(self, x64):
        flow = self.flow()
        context, direction = jax.random.normal(jax.random.key(0), (2, 4, 2))
        x = jax.random.normal(jax.random.key(1), (4, 3))
        loss = jax.jit(lambda c: flow.condition(c).log_prob(x).sum())
        slope = jnp.vdot(jax.grad(loss)(context), direction)
        step = 1e-6
        difference = (loss(context + step * direction) - loss(context - step * direction)) / (
            2 * step
        )
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(slope, difference, rtol=FINITE_DIFFERENCE_F64)

    def test_rows_of_a_batch_do_not_share_noise_in_distrax(self):
        flow = self.flow().condition(jnp.zeros((4, 2)))
        for samples in (
            flow.to_distrax().sample(seed=jax.random.key(0)),
            flow.sample(jax.random.key(0)),
        ):
            assert len(np.unique(np.asarray(samples)[:, 0])) == 4

    def test_to_distrax_keeps_the_density(self, x64):
        flow = self.flow().condition(jnp.ones((4, 2)))
        x, scores = flow.sample_and_log_prob(jax.random.key(0), (6,))
        other = flow.to_distrax()
        assert isinstance(other, distrax.Transformed)
        assert (other.batch_shape, other.event_shape) == ((4,), (3,))
        np.testing.assert_allclose(other.log_prob(x), scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        heavy = table.RECIPES["real_nvp"](jax.random.key(0), (3,), base=dist.StudentT(5.0))
        np.testing.assert_allclose(heavy.to_distrax().log_prob(x), heavy.log_prob(x), rtol=1e-5)
        assert heavy.to_distrax().sample(seed=jax.random.key(0), sample_shape=(2,)).shape == (2, 3)

    def test_data_init_standardizes(self):
        data = 5.0 + 3.0 * jax.random.normal(jax.random.key(0), (500, 3))
        flow = fd.RealNVP(jax.random.key(0), (3,), num_layers=2, hidden_sizes=(8,))
        z = flow.data_init(data).bijector.inverse(data)
        np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-3)
        np.testing.assert_allclose(z.std(0), 1.0, atol=1e-3)
        context = jnp.ones((500, 2))
        constant = jnp.stack([jnp.full(64, 0.1), *data[:64, 1:].T], 1)
        scale = jnp.exp(flow.data_init(constant).bijector.layers[-1].log_scale)
        np.testing.assert_allclose(scale[0], 1.0)
        conditional = self.flow().data_init(data, context)
        assert isinstance(conditional, fd.ConditionalFlow)


class TestInModels:
    def test_a_site_in_a_model(self):
        flow = table.build_flow("real_nvp", (2,))

        def model(data=None):
            with numpyro.plate("rows", 3):
                numpyro.sample("x", flow, obs=data)

        trace = handlers.trace(handlers.seed(model, 0)).get_trace()
        assert trace["x"]["value"].shape == (3, 2)
        data = jnp.ones((3, 2))
        density, _ = numpyro.infer.util.log_density(model, (data,), {}, {})
        np.testing.assert_allclose(density, 3 * flow.log_prob(data[0]), rtol=1e-5)
        scaled = handlers.scale(model, scale=2.0)
        density, _ = numpyro.infer.util.log_density(scaled, (data,), {}, {})
        np.testing.assert_allclose(density, 6 * flow.log_prob(data[0]), rtol=1e-5)

    def test_a_context_per_row_of_a_subsampled_plate(self):
        flow = table.build_flow("maf", (2,), context_shape=(1,))
        contexts = jnp.arange(6.0)[:, None]

        def model():
            with numpyro.plate("rows", 6, subsample_size=2) as rows:
                return rows, numpyro.sample("x", flow.condition(contexts[rows]))

        _, x = handlers.seed(model, 0)()
        assert x.shape == (2, 2)

    def test_validation_by_numpyro(self):
        interval = fd.to_support(constraints.interval(0.0, 1.0))
        flow = fd.Flow(fd.StandardNormal(()), interval, validate_args=True)
        with pytest.warns(UserWarning, match="Out-of-support"):
            flow.log_prob(jnp.array(2.0))


KEY = jax.random.key(0)
SMALL_NVP = fd.RealNVP(KEY, (3,), num_layers=2, hidden_sizes=(8,))
CONDITIONAL = fd.RealNVP(KEY, (3,), num_layers=2, hidden_sizes=(8,), context_shape=(2,))

MISUSE = {
    "event shape": (lambda: SMALL_NVP.log_prob(jnp.ones((5, 4))), ["(5, 4)", "(*batch, 3)"]),
    "integers": (lambda: SMALL_NVP.log_prob(jnp.ones((5, 3), int)), ["int", "floating"]),
    "one dimension": (lambda: fd.RealNVP(KEY, (1,)), ["event_shape", "at least 2", "(1,)"]),
    "one dimension, splines": (lambda: fd.NSF(KEY, (1,)), ["event_shape", "at least 2"]),
    "bins": (lambda: fd.NSF(KEY, (2,), num_bins=1), ["num_bins", "at least 2", "1"]),
    "bound": (lambda: fd.NSF(KEY, (2,), bound=-1.0), ["bound", "positive", "-1"]),
    "context missing": (lambda: CONDITIONAL.condition(None), ["context", "missing", "2"]),
    "context not given": (lambda: CONDITIONAL.log_prob(jnp.ones(3)), ["context", "condition"]),
    "context superfluous": (lambda: SMALL_NVP.condition(jnp.ones(2)), ["context", "context_shape"]),
    "context shape": (lambda: CONDITIONAL.condition(jnp.ones((5, 3))), ["context", "(5, 3)", "2"]),
    "context integer": (lambda: CONDITIONAL.condition(jnp.ones((5, 2), int)), ["context", "int"]),
    "key": (lambda: fd.MAF(0, (3,)), ["key", "jax.random.key", "0"]),
    "key array": (lambda: fd.NSF(jnp.ones(2), (3,)), ["key", "float32"]),
    "key stack": (lambda: fd.IAF(jax.random.split(KEY), (3,)), ["key", "one PRNG key"]),
    "layers": (lambda: fd.MAF(KEY, (3,), num_layers=0), ["num_layers", "at least 1", "0"]),
    "hidden sizes": (lambda: fd.MAF(KEY, (3,), hidden_sizes=(8, 0)), ["hidden_sizes", "(8, 0)"]),
    "event": (lambda: fd.MAF(KEY, (3, -1)), ["event_shape", "positive", "-1"]),
    "mask": (lambda: fd.RealNVP(KEY, (3,), mask="stripes"), ["mask", "stripes", "half"]),
    "mask shape": (lambda: fd.RealNVP(KEY, (3,), mask=[0, 1]), ["mask", "(2,)", "(3,)"]),
    "mask of ones": (lambda: fd.RealNVP(KEY, (3,), mask=[1, 1, 1]), ["mask", "change"]),
    "order": (lambda: fd.MAF(KEY, (3,), order=(0, 0, 1)), ["order", "permutation"]),
    "scale": (lambda: fd.RealNVP(KEY, (3,), scale="cubic"), ["scale", "cubic", "tanh"]),
    "activation": (lambda: fd.NSF(KEY, (3,), activation="rely"), ["activation", "rely"]),
    "base": (lambda: fd.NSF(KEY, (3,), base="normal"), ["base", "str"]),
    "base shape": (
        lambda: fd.NSF(KEY, (3,), base=fd.StandardNormal((4,))),
        ["base", "(3,)", "(4,)"],
    ),
    "bijector": (lambda: fd.Flow(fd.StandardNormal((3,)), jnp.tanh), ["transform"]),
    "conditional in Flow": (
        lambda: fd.Flow(fd.StandardNormal((3,)), CONDITIONAL.bijector),
        ["bijector", "ConditionalFlow"],
    ),
    "base rank": (
        lambda: fd.Flow(dist.Normal(), SMALL_NVP.bijector),
        ["base", "()", "1"],
    ),
    "chain": (
        lambda: fd.Chain([fd.Reverse((3,)), fd.Reverse((4,))]),
        ["layers[1]", "(4,)", "(3,)"],
    ),
    "empty chain": (lambda: fd.Chain([]), ["layers", "none"]),
    "foreign": (lambda: fd.Chain([jnp.tanh]), ["transform"]),
    "repeat": (lambda: fd.Repeat(KEY, lambda k: fd.Reverse((3,)), 0), ["num_layers", "0"]),
    "affine scale": (lambda: fd.Affine(jnp.zeros(2), -jnp.ones(2)), ["scale", "positive", "-1"]),
    "permutation": (lambda: fd.Permute((0, 0)), ["permutation", "(0, 0)"]),
    "support": (lambda: fd.to_support("positive"), ["constraint", "str"]),
    "conditioner": (
        lambda: fd.Coupling(
            KEY, (4,), transformer=fd.RationalQuadratic(), conditioner=lambda x: jnp.ones(3)
        ),
        ["conditioner", "46", "3"],
    ),
    "misspelt option": (lambda: fd.NSF(KEY, (3,), num_layer=3), ["NSF", "num_layer"]),
    "event array": (lambda: fd.NSF(KEY, np.array([3])), ["event_shape", "tuple"]),
    "no hidden sizes": (lambda: fd.NSF(KEY, (3,), hidden_sizes=()), ["hidden_sizes", "one"]),
    "activations": (lambda: fd.NSF(KEY, (3,), activation=["relu"]), ["activation", "relu"]),
    "transformer": (
        lambda: fd.Coupling(KEY, (3,), transformer="spline"),
        ["transformer", "spline"],
    ),
    "inverse of a number": (lambda: fd.Inverse(3), ["transform", "int"]),
    "a layer for a factory": (
        lambda: fd.Repeat(KEY, fd.Reverse((3,)), 2),
        ["make_layer", "function", "Reverse"],
    ),
    "permutation of floats": (lambda: fd.Permute([0.5, 1.2]), ["permutation", "0.5"]),
    "sample key": (lambda: SMALL_NVP.sample(0), ["key", "jax.random.key"]),
    "stack index": (lambda: SMALL_NVP.bijector.layers[0].layers[0][7], ["range"]),
    "context batch": (
        lambda: CONDITIONAL.condition(jnp.ones((6, 2))).log_prob(jnp.ones((5, 3))),
        ["(5,)", "(6,)", "context"],
    ),
    "conditioner without context": (
        lambda: fd.AffineCoupling(
            KEY, (2,), context_shape=(2,), conditioner=fd.MLP(KEY, 1, 2)
        ).forward_and_log_det(jnp.ones(2), jnp.ones(2)),
        ["context", "context_size"],
    ),
    "discrete base": (
        lambda: fd.Flow(dist.Poisson(jnp.ones(3)).to_event(1), fd.Reverse((3,))),
        ["base", "continuous", "discrete"],
    ),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError, AttributeError, IndexError)) as raised:
        call()
    for word in words:
        assert word in str(raised.value)
