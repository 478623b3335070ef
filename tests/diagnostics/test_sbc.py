"""Simulation-based calibration, with posteriors known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import stats

from flowdists.diagnostics import sbc_ranks, uniformity_pvalues
from tests.tolerances import P_VALUE

DRAWS = 63


def model(size, y=None):
    """Conjugate, separately for each of two groups and two dimensions."""
    with numpyro.plate("group", 2):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        with numpyro.plate("row", size):
            numpyro.sample("y", dist.Normal(z, 1).to_event(1), obs=y)


def normal_posterior(scale=1.0, shift=0.0):
    def posterior(key, data):
        y = data["y"]
        variance = 1 / (1 + len(y))
        noise = jax.random.normal(key, (DRAWS, 2, 2))
        return {"z": variance * y.sum(0) + shift + scale * variance**0.5 * noise}

    return posterior


def ranks_of(posterior, seed=0, **options):
    options = {"observed": "y", "num_draws": DRAWS, "vectorized": True, **options}
    return sbc_ranks(jax.random.key(seed), model, posterior, 3, **options)


class TestRanks:
    def test_the_posterior_is_calibrated(self):
        ranks = ranks_of(normal_posterior())
        assert set(ranks) == {"z"}
        assert ranks["z"].shape == (200, 2, 2)
        assert np.issubdtype(ranks["z"].dtype, np.integer)
        assert (uniformity_pvalues(ranks, DRAWS)["z"] > P_VALUE).all()
        assert stats.chisquare(np.bincount(ranks["z"].ravel() // 4)).pvalue > P_VALUE

    @pytest.mark.parametrize(("scale", "shift"), [(0.6, 0.0), (1.6, 0.0), (1.0, 0.3), (1.0, -0.3)])
    def test_other_distributions_are_not(self, scale, shift):
        ranks = ranks_of(normal_posterior(scale, shift))["z"]
        assert (uniformity_pvalues({"z": ranks}, DRAWS)["z"] < P_VALUE).all()
        outside = np.mean((ranks < 8) | (ranks >= 56))
        assert (outside > 0.25) == (scale < 1 or shift != 0)
        assert shift * (ranks.mean() - DRAWS / 2) <= 0

    def test_one_by_one_is_the_same_as_all_at_once(self):
        options = {"num_simulations": 4, "quantities": log_joint}
        whole = ranks_of(normal_posterior(), **options)
        single = ranks_of(normal_posterior(), vectorized=False, **options)
        for name, value in whole.items():
            np.testing.assert_array_equal(single[name], value)

    def test_posteriors_need_not_be_traceable(self):
        def posterior(key, data):
            seed = np.random.default_rng(np.asarray(jax.random.key_data(key)))
            y = np.asarray(data["y"])
            return {"z": seed.normal(y.sum(0) / (1 + len(y)), (1 + len(y)) ** -0.5, (DRAWS, 2, 2))}

        ranks = ranks_of(posterior, vectorized=False, num_simulations=50)
        assert (uniformity_pvalues(ranks, DRAWS)["z"] > P_VALUE).all()

    def test_the_log_joint_tells_the_prior_from_the_posterior(self):
        def prior(key, data):
            return {"z": jax.random.normal(key, (DRAWS, 2, 2))}

        wrong = uniformity_pvalues(ranks_of(prior, quantities=log_joint), DRAWS)
        assert (wrong["z"] > P_VALUE).all()
        assert wrong["log_joint"] < P_VALUE
        right = uniformity_pvalues(ranks_of(normal_posterior(), quantities=log_joint), DRAWS)
        assert right["log_joint"] > P_VALUE

    def test_ties_are_broken_at_random(self):
        """A coin that is misread once in four times: the posterior is 3/4 to 1/4."""

        def coin():
            side = numpyro.sample("side", dist.Bernoulli(0.5))
            numpyro.sample("seen", dist.Bernoulli(0.25 + 0.5 * side))

        def posterior(key, data):
            return {"side": jax.random.bernoulli(key, 0.25 + 0.5 * data["seen"], (9,)).astype(int)}

        ranks = sbc_ranks(
            jax.random.key(0),
            coin,
            posterior,
            observed=["seen"],
            num_simulations=2000,
            num_draws=9,
            vectorized=True,
        )
        assert uniformity_pvalues(ranks, 9)["side"] > P_VALUE
        assert stats.chisquare(np.bincount(ranks["side"])).pvalue > P_VALUE

    def test_some_of_the_latent_sites(self):
        """Of two locations that are added, ``posterior`` returns only the first."""

        def two():
            a = numpyro.sample("a", dist.Normal(0, 1))
            b = numpyro.sample("b", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(a + b, 1))

        def posterior(key, data):
            return {"a": data["x"] / 3 + (2 / 3) ** 0.5 * jax.random.normal(key, (DRAWS,))}

        seen = []

        def quantities(latents, data):
            seen.append(set(latents))
            return {"residual": data["x"] - latents["a"]}

        given = {"observed": "x", "num_draws": DRAWS, "vectorized": True}
        key = jax.random.key(0)
        for latents in ("a", ["a"]):
            ranks = sbc_ranks(key, two, posterior, latents=latents, quantities=quantities, **given)
            assert set(ranks) == {"a", "residual"}
            for p_value in uniformity_pvalues(ranks, DRAWS).values():
                assert p_value > P_VALUE
        assert all(names == {"a"} for names in seen)
        with pytest.raises(ValueError, match=r"draws of every latent site.*\['b'\]"):
            sbc_ranks(key, two, posterior, **given)

    def test_the_size_of_batches_does_not_matter(self):
        """One by one, with a remainder, and all at once."""
        one, some, whole = (
            ranks_of(normal_posterior(), num_simulations=20, **options)["z"]
            for options in ({"batch_size": 1}, {"batch_size": 7}, {})
        )
        np.testing.assert_array_equal(one, whole)
        np.testing.assert_array_equal(some, whole)


def log_joint(latents, data):
    return {"log_joint": log_density(handlers.condition(model, data), (3,), {}, latents)[0]}


def broken(change):
    """A posterior whose return value is changed."""
    return lambda key, data: change(normal_posterior()(key, data))


MISUSE = {
    "key": (lambda: sbc_ranks(0, model, normal_posterior(), 3, observed="y"), ["key"]),
    "posterior": (lambda: ranks_of(3), ["`posterior`", "function", "int"]),
    "unknown site": (lambda: ranks_of(normal_posterior(), observed="x"), ["observed", "x", "'y'"]),
    "no site": (lambda: ranks_of(normal_posterior(), observed=()), ["observed", "()"]),
    "data": (
        lambda: ranks_of(normal_posterior(), y=jnp.zeros((3, 2, 2))),
        ["['y']", "data=None"],
    ),
    "unknown latent site": (
        lambda: ranks_of(normal_posterior(), latents=["z", "w"]),
        ["`latents`", "('z', 'w')", "there are ('z',)"],
    ),
    "observed as latent": (
        lambda: ranks_of(normal_posterior(), latents="y"),
        ["`latents`", "('y',)", "there are ('z',)"],
    ),
    "no latent site": (lambda: ranks_of(normal_posterior(), latents=()), ["`latents`", "()"]),
    "batch size": (lambda: ranks_of(normal_posterior(), batch_size=0), ["`batch_size`", "0"]),
    "all observed": (lambda: ranks_of(normal_posterior(), observed=["y", "z"]), ["latent"]),
    "no dict": (lambda: ranks_of(broken(lambda draws: draws["z"])), ["posterior", "dict"]),
    "missing": (lambda: ranks_of(broken(lambda draws: {})), ["posterior", "['z']"]),
    "shape": (
        lambda: ranks_of(broken(lambda draws: {"z": draws["z"][:, 0]})),
        ["'z'", "(63, 2)", "(63, 2, 2)"],
    ),
    "nan": (
        lambda: ranks_of(broken(lambda draws: {"z": jnp.log(draws["z"])})),
        ["'z'", "of 200 simulations", "NaN", "index 0"],
    ),
    "names of quantities": (
        lambda: ranks_of(normal_posterior(), quantities=lambda latents, data: latents),
        ["quantities", "['z']"],
    ),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    for word in words:
        assert word in str(raised.value)
