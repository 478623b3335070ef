"""Flows given some of their elements, against quadrature and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import LowerCholeskyAffine
from scipy import stats

import flowdists as fd
from flowdists.bijectors._dependence import dependence
from flowdists.conditioning import given
from flowdists.transformers import Additive
from tests import table
from tests.tolerances import (
    FINITE_DIFFERENCE_F64,
    INTEGRAL,
    LOG_DET_F64,
    P_VALUE,
    ROUND_TRIP_F64,
)

KEY = jax.random.key(0)
SMALL = table.SMALL


def moved(layer, scale=0.4):
    return table.perturb(KEY, layer, scale)


def flow_of(base, *layers):
    return fd.Flow(base, fd.Chain(layers), validate_args=False)


def autoregressive(size=2, **options):
    return moved(fd.MaskedAutoregressive(KEY, (size,), **SMALL, **options))


def recipe(name, event_shape=(2,), **options):
    return table.build_flow(name, event_shape, **{"num_layers": 2, **options})


def interval(low, high):
    return fd.to_support(constraints.interval(low, high))


NORMAL = fd.StandardNormal((2,))

# Flows in two dimensions, what to observe, and where the rest lies.
PLANE = {
    "maf": (lambda: recipe("maf", order="ascending"), 0, 0.7, (-20, 20)),
    "maf descending": (lambda: recipe("maf", order="descending"), 1, -0.3, (-20, 20)),
    "iaf": (lambda: recipe("iaf", order=(1, 0)), -1, 0.4, (-20, 20)),
    "one coupling": (lambda: recipe("real_nvp", num_layers=1), 0, -1.2, (-20, 20)),
    "splines": (
        lambda: flow_of(NORMAL, autoregressive(transformer=table.SPLINE), autoregressive()),
        0,
        0.5,
        (-20, 20),
    ),
    "a stack that stores nothing": (
        lambda: flow_of(NORMAL, fd.Repeat.stack([autoregressive()] * 2, memory="invert")),
        0,
        0.5,
        (-20, 20),
    ),
    "a scalar layer": (
        lambda: fd.Flow(NORMAL, moved(fd.RationalQuadraticSpline(()))),
        1,
        0.5,
        (-20, 20),
    ),
    "scalar base": (
        lambda: flow_of(dist.StudentT(6.0).expand([2]).to_event(1), autoregressive()),
        0,
        0.5,
        (-60, 60),
    ),
    "base with parameters": (
        lambda: flow_of(
            dist.Normal(jnp.array([0.5, -0.5]), jnp.array([0.5, 2.0])).to_event(1),
            fd.Reverse((2,)),
            autoregressive(order="descending"),
            fd.Reverse((2,)),
        ),
        0,
        0.5,
        (-30, 30),
    ),
    "bounded": (lambda: flow_of(NORMAL, autoregressive(), interval(-1.0, 3.0)), 0, 0.2, (-1, 3)),
    "bounds of its own for each": (
        lambda: flow_of(
            NORMAL, autoregressive(), interval(np.array([0.0, -1.0]), np.array([1.0, 3.0]))
        ),
        0,
        0.2,
        (-1, 3),
    ),
    "a kind of bounds for each": (
        lambda: flow_of(
            NORMAL,
            autoregressive(),
            fd.Concatenated([fd.to_support(constraints.positive), interval(-1.0, 3.0)], [(), ()]),
        ),
        0,
        5.0,
        (-1, 3),
    ),
    "bounded before the last layer": (
        lambda: flow_of(NORMAL, autoregressive(), interval(0.0, 1.0), autoregressive()),
        0,
        0.4,
        (-6, 6),
    ),
    "bounded base": (
        lambda: flow_of(fd.StandardUniform((2,)), interval(0.0, 1.0).inv, autoregressive()),
        0,
        0.5,
        (-40, 40),
    ),
    "logistic base": (
        lambda: flow_of(fd.StandardLogistic((2,)), autoregressive()),
        0,
        0.5,
        (-40, 40),
    ),
    "bounded base and no bounded layer": (
        lambda: flow_of(fd.StandardUniform((2,), -1.0, 1.0), autoregressive()),
        0,
        0.3,
        (-6, 6),
    ),
    "independent elements": (
        lambda: flow_of(dist.Gamma(2.0, 1.0).expand([2]).to_event(1), fd.Reverse((2,))),
        0,
        0.5,
        (0, 40),
    ),
    "circle": (
        lambda: flow_of(
            fd.StandardUniform((2,), -np.pi, np.pi), autoregressive(transformer=table.CIRCULAR)
        ),
        0,
        0.3,
        (-np.pi, np.pi),
    ),
}


@jax.jit
def log_prob(flow, x):
    return flow.log_prob(x)


@functools.partial(jax.jit, static_argnums=1)
def draw(flow, sample_shape=()):
    return flow.sample_and_log_prob(KEY, sample_shape)


def cumulative(axis, density):
    """Integrals up to each point of the axis."""
    return np.append(0.0, np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(axis)))


def rest_of(name):
    """A flow of the table given its element."""
    make, index, value, _ = PLANE[name]
    return given(make(), [index], jnp.array([value]))


class TestDensity:
    @pytest.mark.parametrize("name", sorted(PLANE))
    def test_equals_quadrature_and_is_that_of_the_samples(self, name, x64):
        make, index, value, ends = PLANE[name]
        flow, axis = make(), np.linspace(*ends, 20_001)
        rest = given(flow, [index], jnp.array([value]))
        assert (rest.batch_shape, rest.event_shape) == ((), (1,))

        columns = [axis, axis]
        columns[index] = np.full(axis.shape, value)
        joint = np.asarray(log_prob(flow, jnp.stack(columns, -1)))
        expected = joint - np.log(cumulative(axis, np.exp(joint))[-1])
        scores = np.asarray(log_prob(rest, axis[:, None]))
        possible = np.isfinite(expected)
        assert possible.sum() > 500
        np.testing.assert_array_equal(np.isfinite(scores), possible)
        np.testing.assert_allclose(scores[possible], expected[possible], atol=INTEGRAL)

        samples, scores = draw(rest, (4000,))
        assert rest.support(samples).all()
        uniform = np.interp(samples[:, 0], axis, cumulative(axis, np.exp(expected)))
        assert stats.kstest(uniform, "uniform").pvalue > P_VALUE
        np.testing.assert_allclose(
            log_prob(rest, samples), scores, rtol=LOG_DET_F64, atol=LOG_DET_F64
        )

    @pytest.mark.parametrize("indices", [(2,), (0, 2), (2, 0, 3)])
    def test_of_a_linear_flow_is_gaussian(self, indices, x64):
        def linear(key):
            return fd.MaskedAutoregressive(
                key,
                (4,),
                order=(2, 0, 3, 1),
                transformer=Additive(),
                hidden_sizes=(8,),
                activation=unchanged,
            )

        affine = fd.Affine(jnp.arange(4.0), jnp.array([0.5, 1.0, 2.0, 3.0]))
        flow = flow_of(fd.StandardNormal((4,)), moved(fd.Repeat(KEY, linear, 2)), affine)
        values = jnp.array([0.3, -1.0, 2.0])[: len(indices)]

        mean, root = moments(flow)
        covariance = root @ root.T
        o, r = np.array(indices), np.array([i for i in range(4) if i not in indices])
        weights = jnp.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, r)]).T
        loc = mean[r] + weights @ (values - mean[o])
        left = covariance[np.ix_(r, r)] - weights @ covariance[np.ix_(o, r)]

        rest = given(flow, indices, values)
        x = loc + jax.random.normal(KEY, (5, len(r)))
        expected = dist.MultivariateNormal(loc, left).log_prob(x)
        np.testing.assert_allclose(log_prob(rest, x), expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        rest_mean, rest_root = moments(rest)
        np.testing.assert_allclose(rest_mean, loc, atol=ROUND_TRIP_F64)
        np.testing.assert_allclose(rest_root @ rest_root.T, left, atol=ROUND_TRIP_F64)

    def test_of_independent_blocks_is_that_of_the_other_block(self, x64):
        """Even where no element of the first can be observed alone."""
        first, second = moved(fd.LULinear(KEY, (2,))), autoregressive()
        scalars = fd.StandardNormal((), (4,)).to_event(1)
        flow = fd.Flow(scalars, fd.Concatenated([first, second], [(2,), (2,)]))
        rest = given(flow, (0, 1), jnp.zeros((3, 2)))
        x = jax.random.normal(KEY, (3, 2))
        expected = log_prob(fd.Flow(NORMAL, second), x)
        np.testing.assert_allclose(log_prob(rest, x), expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    def test_one_observation_after_the_other_is_both(self, x64):
        flow = recipe("maf", (4,), order="ascending")
        both = given(flow, (0, 1), jnp.array([0.5, -1.0]))
        in_turn = given(given(flow, (0,), jnp.array([0.5])), (0,), jnp.array([-1.0]))
        x = jax.random.normal(KEY, (3, 2))
        np.testing.assert_allclose(
            log_prob(in_turn, x), log_prob(both, x), rtol=LOG_DET_F64, atol=LOG_DET_F64
        )

    @pytest.mark.parametrize(
        ("name", "outside"),
        [
            ("bounded", 3.5),
            ("bounds of its own for each", -1.5),
            ("a kind of bounds for each", 3.5),
            ("bounded before the last layer", 9.0),
            ("bounded base and no bounded layer", 9.0),
        ],
    )
    def test_outside_of_the_support_there_is_none(self, name, outside):
        rest = rest_of(name)
        points = jnp.array([draw(rest)[0], [outside], [jnp.nan]])
        score = jax.jit(jax.vmap(jax.value_and_grad(lambda x: rest.log_prob(x))))
        scores, slopes = score(points)
        assert jnp.isfinite(scores[0])
        assert scores[1] == -jnp.inf
        assert jnp.isnan(scores[2])
        assert jnp.isfinite(slopes[:2]).all()
        np.testing.assert_array_equal(rest.support(points), [True, False, False])

    @pytest.mark.parametrize(
        ("name", "impossible"),
        [
            ("bounded", 3.5),
            ("a kind of bounds for each", -1.0),
            ("bounded before the last layer", 9.0),
            ("bounded base and no bounded layer", 9.0),
            ("independent elements", -0.5),
        ],
    )
    def test_given_what_cannot_be_it_is_nan(self, name, impossible):
        make, index, possible, _ = PLANE[name]
        rest = given(make(), [index], jnp.array([[impossible], [possible]]))
        for result in (log_prob(rest, jnp.full((2, 1), 0.6)), draw(rest)[0][:, 0]):
            np.testing.assert_array_equal(jnp.isnan(result), [True, False])


def unchanged(x):
    return x


@jax.jit
def moments(flow):
    """Mean and a root of the covariance of a flow that is affine."""
    z = jnp.zeros(flow.event_shape)
    return flow.bijector(z), jax.jacfwd(flow.bijector)(z)


class TestInterface:
    def flow(self):
        return recipe("maf", (4,), order=(2, 0, 3, 1))

    def test_values_go_by_their_indices(self, x64):
        flow, x = self.flow(), jnp.array([0.4, -0.7])
        expected = log_prob(given(flow, (2, 0), jnp.array([1.0, 2.0])), x)
        for indices, values in (((0, 2), (2.0, 1.0)), ((-2, -4), (1.0, 2.0))):
            score = log_prob(given(flow, np.array(indices), jnp.array(values)), x)
            np.testing.assert_allclose(score, expected, rtol=LOG_DET_F64)

        forward = jax.jit(lambda flow, z: flow.bijector(z))
        z, rest = jax.random.normal(KEY, (4,)), np.array([1, 3])
        x = forward(flow, z)
        x_rest = forward(given(flow, (2, 0), x[np.array([2, 0])]), z[rest])
        np.testing.assert_allclose(x_rest, x[rest], rtol=ROUND_TRIP_F64, atol=ROUND_TRIP_F64)

    def test_batched_looped_and_vmapped_agree(self, x64):
        flow = self.flow()
        values, x = jax.random.normal(KEY, (2, 3, 5, 2))
        rest = given(flow, (2, 0), values)
        assert (rest.batch_shape, rest.event_shape) == ((3, 5), (2,))
        scores = log_prob(rest, x)
        assert scores.shape == (3, 5)
        assert log_prob(rest, x[None]).shape == (1, 3, 5)
        assert draw(rest, (7,))[0].shape == (7, 3, 5, 2)
        one = jax.jit(lambda v, x: given(flow, (2, 0), v).log_prob(x))
        looped = jnp.array([[one(values[i, j], x[i, j]) for j in range(5)] for i in range(3)])
        for other in (looped, jax.jit(jax.vmap(jax.vmap(one)))(values, x)):
            np.testing.assert_allclose(other, scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        assert one(values[0, 0], x).shape == (3, 5)
        assert draw(given(flow, (2, 0), values[:0]), (7,))[0].shape == (7, 0, 5, 2)

    def test_flows_in_a_stack(self):
        make = lambda key: fd.MAF(key, (3,), order="ascending", num_layers=2, hidden_sizes=(8,))
        flows = moved(jax.vmap(make)(jax.random.split(KEY, 4)))
        score = jax.jit(lambda flow: given(flow, (0,), jnp.ones(1)).log_prob(jnp.ones(2)))
        scores = jax.vmap(score)(flows)
        expected = score(jax.tree.map(lambda leaf: leaf[2], flows))
        np.testing.assert_allclose(scores[2], expected, rtol=1e-5)

    def test_compiles_once_for_all_parameters_and_values(self):
        traces = []

        @jax.jit
        def score(flow, values):
            traces.append(None)
            return given(flow, (2, 0), values).log_prob(jnp.ones(2))

        for shift in (0.0, 1.0):
            score(jax.tree.map(lambda leaf, s=shift: leaf + s, self.flow()), jnp.full(2, shift))
        assert len(traces) == 1

    def test_gradients_equal_finite_differences(self, x64):
        """In the base's parameters, the flow's and the values."""
        layers = [autoregressive(3, transformer=table.SPLINE), interval(-2.0, 2.0)]
        flow, x = flow_of(fd.StandardNormal((3,)), *layers), jnp.array([0.3, -0.5])

        @jax.jit
        def loss(loc, bijector, values):
            base = dist.Normal(loc, 1.0).to_event(1)
            rest = given(flow.replace(base=base, bijector=bijector), (0,), values)
            return rest.log_prob(x).sum() + jnp.sin(rest.sample(KEY, (3,))).sum()

        primals = (jnp.zeros(3), flow.bijector, jnp.array([[0.4], [-0.6]]))
        tangents = table.perturb(KEY, jax.tree.map(jnp.zeros_like, primals), 1.0)
        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*primals)

        def along(i, step):
            ahead = jax.tree.map(lambda p, t: p + step * t, primals[i], tangents[i])
            return loss(*primals[:i], ahead, *primals[i + 1 :])

        for i, gradient in enumerate(gradients):
            pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(tangents[i]), strict=True)
            slope = sum(jnp.vdot(a, b) for a, b in pairs)
            assert abs(slope) > 1e-3
            difference = (along(i, 1e-6) - along(i, -1e-6)) / 2e-6
            np.testing.assert_allclose(slope, difference, rtol=FINITE_DIFFERENCE_F64)

    def test_conditional_flows_once_they_are_conditioned(self):
        flow = table.build_flow("maf", (3,), context_shape=(2,), order="ascending", num_layers=2)
        score = lambda c: given(flow.condition(c), (0,), jnp.ones(1)).log_prob(jnp.ones(2))
        contexts = jax.random.normal(KEY, (4, 2))
        scores, slopes = jax.jit(jax.vmap(jax.value_and_grad(score)))(contexts)
        np.testing.assert_allclose(scores[1], jax.jit(score)(contexts[1]), rtol=1e-5)
        assert (jnp.abs(slopes) > 1e-3).any()

    def test_temperatures(self):
        flow, x = self.flow(), jnp.array([0.1, 0.2, 0.3])
        warm = given(flow, (2,), jnp.ones(1)).with_temperature(0.5)
        cold = given(flow.with_temperature(0.5), (2,), jnp.ones(1))
        np.testing.assert_allclose(log_prob(warm, x), log_prob(cold, x), rtol=1e-5)
        frozen, _ = draw(given(flow.with_temperature(0.0), (2,), jnp.ones(1)), (2,))
        np.testing.assert_array_equal(frozen[0], frozen[1])

    def test_saved_and_loaded(self, tmp_path):
        flow, x = self.flow(), jnp.array([0.4, -0.7])
        rest = given(flow, (2, 0), jnp.array([1.0, 2.0]))
        fd.save(tmp_path / "flow", flow)
        fd.save(tmp_path / "rest", rest)
        again = given(fd.load(tmp_path / "flow"), (2, 0), jnp.array([1.0, 2.0]))
        other = given(flow, (2, 0), jnp.zeros(2))
        for loaded in (again, fd.load(tmp_path / "rest", like=other)):
            np.testing.assert_array_equal(log_prob(loaded, x), log_prob(rest, x))

    def test_low_precision_gives_single_precision_densities(self):
        rest = given(self.flow(), (2,), jnp.ones(1))
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), rest)
        assert low.log_prob(jnp.ones(3, jnp.bfloat16)).dtype == jnp.float32

    def test_no_tracer_leaks(self):
        flow = flow_of(NORMAL, fd.MaskedAutoregressive(KEY, (2,), hidden_sizes=(5,)))
        with jax.checking_leaks():
            jax.jit(lambda f, v: given(f, (0,), v).log_prob(jnp.ones(1)))(flow, jnp.ones(1))

    def test_has_a_support_that_samplers_can_use(self):
        for name in ("bounded", "bounds of its own for each", "bounded before the last layer"):
            rest = rest_of(name)
            for constraint in (rest.support, rest.bijector.codomain):
                assert constraint.event_dim == 1
                assert constraint(biject_to(constraint)(jnp.array([[-2.0], [3.0]]))).all()
                feasible = constraint.feasible_like(jnp.zeros((3, 1)))
                assert feasible.shape == (3, 1)
                assert constraint(feasible).all()
        bounded = constraints.independent(constraints.interval(-1.0, 3.0), 1)
        assert rest_of("bounded").support == bounded
        assert rest_of("maf").support is constraints.real_vector


def made(size, **options):
    return fd.MaskedAutoregressive(KEY, (size,), **{"hidden_sizes": (8,), **options})


def standard(size, *layers):
    return flow_of(fd.StandardNormal((size,)), *layers)


def few(name, size=4, **options):
    return getattr(fd, name)(KEY, (size,), num_layers=2, hidden_sizes=(8,), **options)


# Flows, what can be observed of them, and what cannot be.
STRUCTURES = {
    "one coupling": (lambda: fd.RealNVP(KEY, (4,), num_layers=1), [(0,), (2, 0)], [(1,), (0, 3)]),
    "couplings": (lambda: few("RealNVP"), [], [(0,), (1, 2, 3)]),
    "one layer": (lambda: fd.MAF(KEY, (4,), num_layers=1), [(0,), (2, 1, 0)], [(1,), (0, 2)]),
    "alternating": (lambda: few("MAF"), [], [(0,), (3,), (0, 1, 2)]),
    "alternating and inverse": (lambda: few("IAF", 3), [], [(0,), (2,)]),
    "inverse": (lambda: few("IAF", 3, order=(2, 0, 1)), [(2,), (0, 2)], [(0,), (1, 2)]),
    "splines in couplings": (lambda: few("NSF"), [], [(0,), (0, 1)]),
    "mixed splines": (lambda: few("NSF", 3, autoregressive=True), [], [(0,), (0, 1)]),
    "glow": (lambda: fd.Glow1D(KEY, (4,), num_layers=1), [], [(0,), (0, 1)]),
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
        lambda: standard(3, LowerCholeskyAffine(jnp.zeros(3), jnp.tri(3))),
        [(0,), (0, 1)],
        [(1,), (0, 2)],
    ),
    "side by side": (
        lambda: standard(4, fd.Concatenated([fd.LULinear(KEY, (2,)), made(2)], [(2,), (2,)])),
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
            rest = given(flow, indices, jnp.zeros(len(indices)))
            assert rest.event_shape == (size - len(indices),)
        for indices in impossible:
            with pytest.raises(ValueError, match="cannot be observed alone"):
                given(flow, indices, jnp.zeros(len(indices)))

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
        for tree in (few("MAF"), jax.tree.map(jnp.zeros_like, few("MAF"))):
            with pytest.raises(ValueError, match="cannot be observed"):
                jax.jit(lambda f: given(f, (0,), jnp.ones(1)).log_prob(jnp.ones(3)))(tree)


class Root(fd.Bijector):
    """A layer with a parameter that must not be negative."""

    square: jax.Array

    @property
    def event_shape(self):
        return self.square.shape

    def forward_and_log_det(self, x, context=None):
        return x / jnp.sqrt(-jnp.abs(self.square)), jnp.zeros(())

    def inverse_and_log_det(self, y, context=None):
        return y * jnp.sqrt(-jnp.abs(self.square)), jnp.zeros(())


MAF = few("MAF", order="ascending")

MISUSE = {
    "not a flow": (lambda: given(NORMAL, (0,), jnp.ones(1)), TypeError, ["Flow", "Normal"]),
    "conditional": (
        lambda: given(few("MAF", context_shape=(2,)), (0,), jnp.ones(1)),
        TypeError,
        ["ConditionalFlow", "condition"],
    ),
    "batch": (
        lambda: given(MAF.expand((3,)), (0,), jnp.ones(1)),
        ValueError,
        ["(3,)", "jax.vmap"],
    ),
    "matrices": (
        lambda: given(fd.MAF(KEY, (2, 2), num_layers=1), (0,), jnp.ones(1)),
        ValueError,
        ["vectors", "(2, 2)"],
    ),
    "simplex": (
        lambda: given(standard(2, fd.to_support(constraints.simplex)), (0,), jnp.ones(1)),
        ValueError,
        ["same length", "(2,)", "(3,)"],
    ),
    "simplex and back": (
        lambda: given(
            standard(
                2,
                fd.to_support(constraints.simplex),
                fd.Reverse((3,)),
                fd.to_support(constraints.simplex).inv,
            ),
            (0,),
            jnp.ones(1),
        ),
        ValueError,
        ["vectors of 2 elements", "Inverse"],
    ),
    "ordered": (
        lambda: given(standard(2, fd.to_support(constraints.ordered_vector)), (0,), jnp.ones(1)),
        ValueError,
        ["one by one", "Ordered"],
    ),
    "dependent base": (
        lambda: given(
            flow_of(dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)), made(2)), (0,), jnp.ones(1)
        ),
        TypeError,
        ["base", "independent", "MultivariateNormal"],
    ),
    "flow as base": (
        lambda: given(fd.Flow(MAF, fd.Reverse((4,))), (0,), jnp.ones(1)),
        TypeError,
        ["base", "independent", "Flow"],
    ),
    "unknowable": (
        lambda: given(standard(2, Root(jnp.ones(2))), (0,), jnp.ones(1)),
        ValueError,
        ["Root", "not finite"],
    ),
    "mixed": (
        lambda: given(MAF, (2,), jnp.ones(1)),
        ValueError,
        ["[2]", "with the elements [0, 1];", "first elements of [0, 1, 2, 3]"],
    ),
    "mixed up": (
        lambda: given(few("MAF"), (0, 1), jnp.ones(2)),
        ValueError,
        ["[0, 1]", "elements [2, 3];", "no element could", "MAF(order='ascending')"],
    ),
    "indices of another kind": (
        lambda: given(MAF, (0.0,), jnp.ones(1)),
        TypeError,
        ["`indices`", "ints"],
    ),
    "an index": (lambda: given(MAF, 0, jnp.ones(1)), TypeError, ["`indices`", "sequence"]),
    "a mask": (
        lambda: given(MAF, [True, False, False, False], jnp.ones(1)),
        TypeError,
        ["`indices`", "mask"],
    ),
    "out of range": (lambda: given(MAF, (4,), jnp.ones(1)), ValueError, ["-4 to 3", "(4,)"]),
    "twice": (lambda: given(MAF, (0, -4), jnp.ones(2)), ValueError, ["distinct", "(0, -4)"]),
    "nothing": (lambda: given(MAF, (), jnp.ones(0)), ValueError, ["at least one", "()"]),
    "everything": (lambda: given(MAF, range(4), jnp.ones(4)), ValueError, ["leave", "4"]),
    "shape": (lambda: given(MAF, (0, 1), jnp.ones((5, 3))), ValueError, ["(5, 3)", "(*batch, 2)"]),
    "integers": (lambda: given(MAF, (0,), jnp.ones(1, int)), TypeError, ["`values`", "int"]),
}


@pytest.mark.parametrize("name", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(name):
    call, error, words = MISUSE[name]
    with pytest.raises(error, match="given: ") as raised:
        call()
    for word in words:
        assert word in str(raised.value)
