"""Posteriors learned from simulations, against closed forms."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import flowdists as fd
from flowdists.diagnostics import expected_coverage
from tests.draws import normal
from tests.sbi.models import LEARNING, SMALL, TINY, exact, gaussian
from tests.tolerances import P_VALUE


def box():
    theta = numpyro.sample("theta", dist.Uniform(-1.0, 1.0).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    numpyro.sample("x", dist.Normal(theta, 3.0 + tau).to_event(1))


@functools.partial(jax.jit, static_argnames="size")
def sample(posterior, key, data, size):
    """Draws by site: compiled once for all posteriors of one structure."""
    return posterior.sample(key, data, (size,))


@pytest.fixture(
    scope="module",
    params=["affine", pytest.param("default", marks=[pytest.mark.slow, pytest.mark.heavy])],
)
def learned(request):
    return fd.npe(jax.random.key(0), gaussian, observed="x", **LEARNING[request.param])


def test_closed_form_posterior_at_once_for_all_data(learned, key):
    posterior, history = learned
    assert history.validation.shape == history.train.shape
    x = np.array([[90.0, 110.0, 95.0, 80.0], [130.0, 125.0, 120.0, 150.0]])
    mean, deviation = np.array([exact(row) for row in x]).T
    draws = np.asarray(sample(posterior, key, {"x": x}, 20_000)["loc"])
    assert (np.abs(draws.mean(0) - mean) < 0.15 * deviation).all()
    assert (np.abs(draws.std(0) / deviation - 1) < 0.1).all()
    values = np.array([mean - deviation, mean])
    expected = stats.norm(mean, deviation).logpdf(values)
    given = jax.jit(posterior.log_prob)({"loc": values}, x)
    np.testing.assert_allclose(given, expected, atol=0.15)


def test_calibrated(learned, key):
    posterior, _ = learned
    theta, x = fd.Simulator(gaussian, observed="x").draw(key, 300)
    result = expected_coverage(key, posterior.flow, theta, x, num_draws=200)
    assert fd.uniformity_pvalues({"level": result.ranks}, 200)["level"] > P_VALUE
    ranks = fd.sbc_ranks(
        key,
        gaussian,
        lambda key, data: sample(posterior, key, data, 99),
        observed="x",
        num_simulations=300,
        num_draws=99,
        vectorized=True,
    )
    assert fd.uniformity_pvalues(ranks, 99)["loc"] > P_VALUE


@pytest.fixture(scope="module")
def boxed():
    """The default flow after a short training."""
    options = {**TINY, "flow": fd.NSF}
    return fd.npe(jax.random.key(0), box, observed="x", num_simulations=300, **options).flow


DATA = {"x": np.array([[0.0, 0.0], [50.0, -80.0]])}


def test_draws_never_leave_the_prior(boxed, key):
    draws = {name: np.asarray(value) for name, value in sample(boxed, key, DATA, 5000).items()}
    assert (np.abs(draws["theta"]) <= 1).all() and (draws["tau"] > 0).all()
    shapes = {name: value.shape for name, value in draws.items()}
    assert shapes == {"theta": (5000, 2, 2), "tau": (5000, 2)}


def test_saved_and_put_back(boxed, key, tmp_path):
    fd.save(tmp_path / "posterior", boxed.flow)
    loaded = fd.ConditionalSiteFlow(fd.load(tmp_path / "posterior"), boxed.events, boxed.contexts)
    first, second = (sample(posterior, key, DATA, 5000) for posterior in (boxed, loaded))
    np.testing.assert_array_equal(first["theta"], second["theta"])


def test_what_is_not_asked_for_is_averaged_over(given, key):
    posterior, _ = fd.npe(key, box, observed="x", latents="theta", num_simulations=300, **TINY)
    assert given["events"].shape == given["contexts"].shape == (300, 2)
    assert posterior.events.names == ("theta",)


def points():
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("points", 5):
        numpyro.sample("x", dist.Normal(loc, 1.0).to_event(1))


@pytest.fixture(scope="module")
def of_sets():
    """A posterior given sets of points, and its network before training."""
    network = fd.DeepSets(jax.random.key(0), 2, 4, hidden_sizes=(8,))
    options = {"num_simulations": 300, "embedding": network, **TINY}
    return fd.npe(jax.random.key(0), points, observed="x", **options).flow, network


def test_an_embedding_sees_the_datas_own_shape(of_sets):
    posterior, _ = of_sets
    assert posterior.flow.context_shape == (5, 2)
    x = np.asarray(normal(0, (7, 5, 2)))
    score = jax.jit(lambda x: posterior.log_prob({"loc": jnp.zeros(2)}, {"x": x}))
    np.testing.assert_allclose(score(x), score(x[:, ::-1]), rtol=1e-4)


def test_saved_with_an_embedding(of_sets, key, tmp_path):
    posterior, network = of_sets
    fd.save(tmp_path / "posterior", posterior.flow)
    like = fd.MAF(
        key,
        (2,),
        context_shape=(5, 2),
        support=fd.Simulator(points, observed="x").support,
        embedding=network,
        **SMALL,
    )
    flow = fd.load(tmp_path / "posterior", like=like)
    loaded = fd.ConditionalSiteFlow(flow, posterior.events, posterior.contexts)
    first, second = (sample(p, key, np.ones((5, 2)), 4) for p in (posterior, loaded))
    np.testing.assert_array_equal(first["loc"], second["loc"])


def test_a_foreign_embedding_and_another_flow(key):
    network = eqx.nn.MLP(4, 3, width_size=8, depth=1, key=key)
    posterior, _ = fd.npe(
        key, gaussian, observed="x", num_simulations=300, embedding=network, **TINY
    )
    assert posterior.flow.recipe.name == "MAF"
    assert sample(posterior, key, np.full(4, 100.0), 5)["loc"].shape == (5,)


@functools.cache
def untrained():
    simulator = fd.Simulator(gaussian, observed="x")
    flow = fd.MAF(jax.random.key(0), (1,), context_shape=(4,), **SMALL)
    return fd.ConditionalSiteFlow(flow, simulator.latents, simulator.data)


def test_one_compilation_for_new_data(key):
    posterior = untrained()
    five = jax.jit(lambda posterior, x: posterior.sample(key, {"x": x}, (5,)))
    five(posterior, np.ones(4))
    five(jax.tree.map(lambda leaf: leaf + 0.1, posterior), np.zeros(4))
    assert five._cache_size() == 1


UNCONDITIONAL = fd.Flow(fd.StandardNormal((1,)), fd.Reverse((1,)))
MISUSE = {
    "flow": ({"flow": 3}, TypeError, "flow"),
    "unconditional flow": ({"flow": lambda *_, **__: UNCONDITIONAL}, TypeError, "Conditional"),
    "simulations": ({"num_simulations": 0}, ValueError, "num_draws|num_simulations"),
    "observed": ({"observed": "nope"}, ValueError, "observed"),
    "invalid": ({"invalid": "keep"}, ValueError, "invalid"),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse(case, key):
    options, kind, message = MISUSE[case]
    with pytest.raises(kind, match=message):
        fd.npe(key, gaussian, **{"observed": "x", "num_simulations": 50, **options})


def test_misuse_of_a_posterior(key):
    for data, message in (
        ({"y": np.ones(4)}, "missing"),
        ({"x": np.ones(3)}, r"\(3,\)"),
        (np.ones(3), r"\(3,\)"),
        ({"x": np.array([1.0, 2.0, np.nan, 3.0])}, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            untrained().sample(key, data)
    other = jax.eval_shape(lambda key: fd.MAF(key, (2,), context_shape=(4,), **SMALL), key)
    with pytest.raises(ValueError, match="ConditionalSiteFlow"):
        untrained().replace(flow=other)


def test_a_simulator_that_gives_nan_is_an_error(key):
    def broken():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Delta(jnp.log(z)))

    with pytest.raises(ValueError, match=r"npe: .* in 'x' in \d+ of 50 .*drop"):
        fd.npe(key, broken, observed="x", num_simulations=50, **TINY)


@pytest.mark.parametrize("loc", [0.0, -10.0])
def test_simulations_with_nan_can_be_left_out(loc, given, key):
    def broken():
        z = numpyro.sample("z", dist.Normal(loc, 1.0))
        numpyro.sample("x", dist.Delta(jnp.log(z)))

    def learn():
        return fd.npe(key, broken, observed="x", num_simulations=400, invalid="drop", **TINY)

    if loc == -10.0:
        with pytest.raises(ValueError, match="0 of 400 are left"):
            learn()
        return
    theta, x = fd.Simulator(broken, observed="x").draw(jax.random.split(key, 3)[0], 400)
    valid = np.isfinite(np.asarray(x)[:, 0])
    with pytest.warns(RuntimeWarning, match=rf"{(~valid).mean():.2%} .*'x'") as record:
        learn()
    assert record[0].filename == __file__
    np.testing.assert_array_equal(given["events"], np.asarray(theta)[valid])
    np.testing.assert_array_equal(given["contexts"], np.asarray(x)[valid])


def test_a_prior_that_draws_nan_is_an_error(key):
    class Undefined(dist.Normal):
        def sample(self, key, sample_shape=()):
            return jnp.nan * super().sample(key, sample_shape)

    def broken():
        numpyro.sample("z", Undefined(0.0, 1.0))
        numpyro.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"prior .*'z' in 50 of 50"):
        fd.npe(key, broken, observed="x", num_simulations=50, invalid="drop", **TINY)
