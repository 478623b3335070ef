"""Truncated sequential neural posterior estimation."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import flowdists as fd
from tests.draws import normal
from tests.tolerances import P_VALUE, STANDARD_ERRORS


def model():
    loc = numpyro.sample("loc", dist.Uniform(-20.0, 20.0))
    numpyro.sample("x", dist.Normal(loc, 0.5))


# An affine flow can represent the posterior, and compiles fast.
FLOWS = ["MAF", pytest.param("NSF", marks=[pytest.mark.slow, pytest.mark.heavy])]


@pytest.mark.parametrize("flow", FLOWS)
def test_rounds_close_in_on_the_posterior(flow, key):
    posterior, histories, acceptance = fd.tsnpe(
        key,
        model,
        {"x": 3.0},
        observed="x",
        num_rounds=3,
        num_simulations=2000,
        flow=getattr(fd, flow),
        flow_options={"num_layers": 1 + (flow == "NSF"), "hidden_sizes": (32, 32)},
        fit_options={"max_epochs": 40, "batch_size": 50, "progress": False},
    )
    draws = jax.jit(lambda key: posterior.sample(key, {"x": 3.0}, (10_000,))["loc"])(key)
    exact = stats.norm(3.0, 0.5).ppf([0.05, 0.16, 0.5, 0.84, 0.95])
    np.testing.assert_allclose(np.quantile(draws, [0.05, 0.16, 0.5, 0.84, 0.95]), exact, atol=0.1)
    assert len(histories) == 3
    # The last region holds the posterior and the tails of the flow.
    assert 1.0 == acceptance[0] > acceptance[1] > acceptance[2] > 0.05


class Rounds:
    """Replaces the fit: records its data, and moves the flow to a given centre."""

    def __init__(self, *centres):
        self.centres = iter(centres)
        self.rows = []

    def __call__(self, key, flow, theta, *, context, **options):
        self.rows.append((np.asarray(theta[:, 0]), np.asarray(context[:, 0])))
        around = next(self.centres) + normal(len(self.rows), (4000, 1))
        return fd.training.FitResult(flow.data_init(around, around), None)


def run(monkeypatch, key, rounds, **options):
    monkeypatch.setattr("flowdists.sbi.estimation.fit", rounds)
    return fd.tsnpe(
        key,
        options.pop("model", hierarchy),
        {"x": 0.5},
        observed="x",
        latents="theta",
        num_rounds=3,
        flow=fd.MAF,
        flow_options={"num_layers": 1, "hidden_sizes": (8,)},
        **options,
    )


def hierarchy():
    group = numpyro.sample("group", dist.Normal(0.0, 3.0))
    numpyro.sample("theta", dist.Normal(group, 1.0))
    numpyro.sample("x", dist.Normal(group, 0.5))


def test_each_round_draws_from_the_truncated_joint_distribution(monkeypatch, key):
    rounds = Rounds(0.0, 1.5, 0.0)
    _, _, acceptance = run(monkeypatch, key, rounds, num_simulations=3000)
    assert len(rounds.rows[0][0]) == 3000
    assert 1.0 == acceptance[0] > acceptance[1] > acceptance[2]
    # Both regions, of about four standard deviations: (-4, 4) and (-2.5, 5.5).
    theta, x = rounds.rows[-1]
    assert len(theta) > 5000 and -3.2 < theta.min() < -2 and 3.2 < theta.max() < 4.6
    prior, ends = stats.norm(0.0, 10**0.5), (theta.min(), theta.max())
    inside = np.sort(theta)[1:-1]
    levels = (prior.cdf(inside) - prior.cdf(ends[0])) / np.diff(prior.cdf(ends))
    assert stats.kstest(levels, stats.uniform.cdf).pvalue > P_VALUE
    # x given theta is Gaussian for any distribution of theta: cov / var = 0.9.
    residual = (x - 0.9 * theta) / (9.25 - 9**2 / 10) ** 0.5
    assert stats.kstest(residual, stats.norm.cdf).pvalue > P_VALUE
    assert abs(np.corrcoef(residual, theta)[0, 1]) < STANDARD_ERRORS / len(theta) ** 0.5


def test_only_what_is_kept_is_simulated(monkeypatch, key):
    simulated = 0

    def simulate(theta):
        nonlocal simulated
        simulated += theta.size
        return np.zeros(theta.shape, theta.dtype)  # reading theta here could wait forever

    def costly():
        theta = numpyro.sample("theta", dist.Uniform(-20.0, 20.0))
        like = jax.ShapeDtypeStruct((), theta.dtype)
        x = jax.pure_callback(simulate, like, theta, vmap_method="expand_dims")
        numpyro.sample("x", dist.Delta(theta + x))

    run(monkeypatch, key, Rounds(0.0, 0.0, 0.0), model=costly, num_simulations=200)
    assert 600 <= simulated <= 602  # the simulator runs the model twice to find its sites


def test_simulations_with_nan_can_be_left_out(monkeypatch, key):
    def broken():
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Delta(jnp.log(theta)))

    rounds = Rounds(0.0, 0.0, 0.0)
    with pytest.warns(RuntimeWarning, match="left out"):
        run(monkeypatch, key, rounds, model=broken, num_simulations=200, invalid="drop")
    assert all((theta > 0).all() for theta, _ in rounds.rows)
    with pytest.raises(ValueError, match=r"tsnpe: .*'x'.*drop"):
        run(monkeypatch, key, Rounds(0.0), model=broken, num_simulations=200)


def tiny(key, event_shape, *, context_shape, support):
    options = {"num_layers": 1, "hidden_sizes": (8,), "support": support}
    return fd.MAF(key, event_shape, context_shape=context_shape, **options)


MISUSE = {
    "outside": ({"outside": 0.7}, ValueError, "outside"),
    "rounds": ({"num_rounds": 0}, ValueError, "num_rounds"),
    "nan in the data": ({"data": {"x": np.nan}, "num_rounds": 1}, ValueError, "finite|NaN"),
    "invalid": ({"invalid": "keep"}, ValueError, "invalid"),
    "batch of data": ({"data": {"x": np.ones(3)}}, ValueError, "one observation"),
    "other data": ({"data": {"y": 1.0}}, ValueError, "missing"),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse(case):
    options, kind, message = MISUSE[case]
    given = {"data": {"x": 1.0}, "observed": "x", "flow": tiny, **options}
    with pytest.raises(kind, match=message):
        fd.tsnpe(jax.random.key(0), model, given.pop("data"), **given)
