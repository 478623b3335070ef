"""NumPyro models as simulators."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to
from scipy import stats

from flowdists import ConditionalFlow, ContextElementwise, Simulator, StandardNormal, fit
from flowdists.transformers import ShiftScale
from tests.tolerances import P_VALUE


def model(size=3):
    loc = numpyro.sample("loc", dist.Uniform(jnp.array([0.0, -1.0]), jnp.array([1.0, 5.0])))
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    kind = numpyro.sample("kind", dist.Categorical(weights))
    with numpyro.plate("rows", size):
        numpyro.sample("x", dist.Normal(loc[0] + kind, scale))
    numpyro.sample("count", dist.Poisson(3.0))


CONTINUOUS = ("loc", "scale", "weights")


@functools.cache
def simulator():
    return Simulator(model, observed=("x", "count"), latents=CONTINUOUS, size=4)


@functools.cache
def drawn():
    """Latent vectors and data."""
    return tuple(map(np.asarray, simulator().draw(jax.random.key(0), 5000)))


def test_vectors_hold_the_sites():
    made, (theta, x) = simulator(), drawn()
    assert (theta.shape, x.shape) == ((5000, 6), (5000, 5))
    values = made.latents.unpack(theta)
    assert {name: value.shape for name, value in values.items()} == {
        "loc": (5000, 2),
        "scale": (5000,),
        "weights": (5000, 3),
    }
    np.testing.assert_allclose(np.sum(values["weights"], axis=-1), 1.0, rtol=1e-5)
    assert made.support(theta).all() and not made.support(theta * [1, 1, -1, 1, 1, 1]).any()
    np.testing.assert_array_equal(made.latents.pack("", values), theta)
    assert (x[:, -1] == np.round(x[:, -1])).all()


def test_draws_are_those_of_the_model():
    theta, x = drawn()
    assert stats.kstest(theta[:, 1], stats.uniform(-1, 6).cdf).pvalue > P_VALUE
    assert stats.kstest(theta[:, 2], stats.halfnorm(scale=2.0).cdf).pvalue > P_VALUE
    # The weights are the probabilities of the kind, 0, 1 or 2, which is added to the mean.
    residual = (x[:, 0] - theta[:, 0] - theta[:, 4] - 2 * theta[:, 5]) / np.sqrt(
        theta[:, 2] ** 2 + theta[:, 4] + 4 * theta[:, 5] - (theta[:, 4] + 2 * theta[:, 5]) ** 2
    )
    assert abs(residual.mean()) < 5 / np.sqrt(5000)


def test_data_given_parameters(key):
    theta = np.tile(np.float32([0.5, 0.0, 1e-3, 1.0, 0.0, 0.0]), (200, 1))
    x = np.asarray(simulator().draw_data(key, theta))
    np.testing.assert_allclose(x[:, :4], 0.5, atol=0.01)
    assert len(np.unique(x[:, 0])) > 190


def hierarchy():
    group = numpyro.sample("group", dist.Normal(0.0, 3.0))
    theta = numpyro.sample("theta", dist.Normal(group, 1.0))
    numpyro.sample("x", dist.Normal(group, 0.5))
    numpyro.sample("later", dist.Normal(theta, 1.0))


def test_data_given_parameters_that_depend_on_others_are_refused(key):
    with pytest.raises(ValueError, match=r"draw_data: .*'theta'.*'group'"):
        Simulator(hierarchy, observed="x", latents="theta").draw_data(key, np.ones((3, 1)))
    # The data can also come before the latent values.
    with pytest.raises(ValueError, match=r"'later'.*'group', 'theta'"):
        Simulator(hierarchy, observed="theta", latents="later").draw_data(key, np.ones((3, 1)))
    x = Simulator(hierarchy, observed="x").draw_data(key, np.tile([9.0, 0, 0], (9, 1)))
    assert (np.abs(np.asarray(x) - 9.0) < 5.0).all()
    assert Simulator(hierarchy, observed="x", latents="group").draw_data(key, x).shape == (9, 1)


def test_latent_values_without_data_are_those_of_the_pairs(key):
    theta = simulator().draw_latents(jax.random.split(key, 5000))
    np.testing.assert_allclose(theta, drawn()[0], rtol=1e-6)


class AtItsBound(dist.Uniform):
    def sample(self, key, sample_shape=()):
        at_high = jax.random.bernoulli(key, 0.5, sample_shape + self.batch_shape)
        return jnp.where(at_high, self.high, self.low)


def test_draws_on_a_bound_are_moved_inside(key):
    low, high = np.array([[0.0, -1.0, 2000.0], [1.0, 1.0, 2010.0]], np.float32)

    def rounded():
        numpyro.sample("unit", AtItsBound(low, high))
        numpyro.sample("zero", dist.Gamma(1e-3, 1.0))  # underflows
        numpyro.sample("weights", dist.Dirichlet(np.full(3, 1e-2)))
        numpyro.sample("x", dist.Gamma(1e-3, 1.0))

    made = Simulator(rounded, observed="x")
    theta, x = made.draw(key, 5000)
    unit, zero, weights = map(np.asarray, made.latents.unpack(theta).values())
    assert np.isfinite(jax.jit(biject_to(made.support).inv)(theta)).all()
    assert (np.asarray(x) > 0).all() and (zero < 1e-30).mean() > 0.5
    assert ((unit > low) & (unit < high)).all()
    np.testing.assert_allclose(np.minimum(unit - low, high - unit), 0.0, atol=2e-4)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)


def test_what_is_known_of_the_data():
    def mixed():
        top = numpyro.sample("top", dist.Uniform(1.0, 2.0))
        numpyro.sample("free", dist.Normal(top, 1.0))
        numpyro.sample("positive", dist.Exponential(top).expand([2]).to_event(1))
        numpyro.sample("moving", dist.Uniform(0.0, top))
        numpyro.sample("count", dist.Poisson(top).expand([2]).to_event(1))

    made = Simulator(mixed, observed=("free", "positive", "moving", "count"))
    assert made.discrete == ("count",)
    inside, outside = np.array([[-1.0, 1.0, 1.0, 9.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 9.0, 1.0, 1.0]])
    assert made.data_support(inside) and not made.data_support(outside)
    assert Simulator(hierarchy, observed="x").data_support is None


def test_a_stream_to_fit(key):
    made = simulator()
    first, second = itertools.islice(made.stream(key, 32), 2)
    assert first[0].shape == (32, 6) and not np.allclose(first[0], second[0])
    layer = ContextElementwise(key, (6,), (5,), transformer=ShiftScale(), hidden_sizes=())
    flow = ConditionalFlow(StandardNormal((6,)), layer)
    result, history = fit(
        key, flow, made.stream(key, 32), batches_per_epoch=2, max_epochs=2, progress=False
    )
    assert history.train.shape == (2,) and result.event_shape == (6,)


def dependent():
    top = numpyro.sample("top", dist.Uniform(1.0, 2.0))
    numpyro.sample("z", dist.Uniform(0.0, top))
    numpyro.sample("x", dist.Normal(0.0, 1.0))


def with_data():
    numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=0.5)
    numpyro.sample("x", dist.Normal(0.0, 1.0))


MISUSE = {
    "no function": (lambda: Simulator(3, observed="x"), TypeError, "model"),
    "unknown data": (lambda: Simulator(model, observed="nope"), ValueError, "observed"),
    "no data": (lambda: Simulator(model, observed=()), ValueError, "observed"),
    "unknown latent": (
        lambda: Simulator(model, observed="x", latents="nope"),
        ValueError,
        "latents",
    ),
    "discrete latent": (lambda: Simulator(model, observed="x"), ValueError, "kind.*discrete"),
    "moving support": (lambda: Simulator(dependent, observed="x"), ValueError, "support of 'z'"),
    "a site with data": (lambda: Simulator(with_data, observed="x"), ValueError, "'y'"),
    "nothing latent": (
        lambda: Simulator(dependent, observed=("x", "z", "top")),
        ValueError,
        "latent sites besides",
    ),
    "draws": (lambda: simulator().draw(jax.random.key(0), 0), ValueError, "num_draws"),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse(case):
    run, kind, message = MISUSE[case]
    with pytest.raises(kind, match=message):
        run()
