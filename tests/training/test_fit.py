"""`fit`: what it learns, and what it keeps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats

from flowdists import ActNorm, Flow
from flowdists.training import epoch as epoch_module
from flowdists.training import fit, negative_log_likelihood
from tests.tolerances import AGREE_F32, STANDARD_ERRORS
from tests.training.problems import (
    DEVIATION,
    MEAN,
    affine,
    conditional,
    gaussian,
    leaves,
    quick,
    same,
    score,
)

# What it learns.


def test_recovers_the_likelihood_of_a_known_normal(key):
    flow, history = quick(key, affine(), gaussian(rows=2000), max_epochs=40)
    test = gaussian(9, 5000)
    truth = stats.norm(MEAN, DEVIATION).logpdf(test).sum(axis=-1).mean()
    gap = truth + float(score(flow, test))
    # The gap of the maximum-likelihood estimate is chi-squared with 4 degrees over 2 n; the noise
    # of the optimizer, at a fixed step, is allowed as much again.
    allowed = 2 * STANDARD_ERRORS * 4 / (2 * 2000)
    assert -allowed < gap < allowed
    assert history.train[-1] < history.train[0]
    assert history.stopped in ("max_epochs", "patience")


def test_default_optimizer_ends_at_rate_zero_and_improves(key):
    options = {"learning_rate": 0.05, "batch_size": 64, "max_epochs": 20, "progress": False}
    _, history = fit(key, affine(), gaussian(rows=2000), **options)
    entropy = np.log(DEVIATION).sum() + 1 + math.log(2 * math.pi)
    # The log-density of two normals has variance 1; 200 rows were held out.
    assert abs(history.validation[history.best_epoch] - entropy) < STANDARD_ERRORS / 200**0.5
    changes = np.abs(np.diff(history.validation))
    assert changes[-1] < 0.05 * changes.max()


def test_weights_select_one_of_two_clusters(key):
    x = np.concatenate([gaussian(0, 1000), gaussian(1, 1000) + 20.0])
    weights = np.repeat([1.0, 0.0], 1000)
    flow, _ = quick(key, affine(), x, weights=weights, max_epochs=80)
    assert np.abs(np.asarray(flow.bijector.loc) - MEAN).max() < 0.3


def test_only_the_ratios_of_weights_matter(key):
    weights = np.random.default_rng(1).uniform(size=2000)
    a, b = (
        quick(key, affine(), gaussian(rows=2000), weights=scale * weights, max_epochs=2)
        for scale in (1, 1024)
    )
    np.testing.assert_allclose(a.history.train, b.history.train, rtol=AGREE_F32)


@pytest.fixture(scope="module")
def regression():
    """Rows that are linear in their contexts, those held out, and a flow fitted to them."""
    draws = np.random.default_rng(0).normal(size=(3300, 3)).astype(np.float32)
    context = draws[:, :1]
    x = context * np.array([2.0, -1.0], np.float32) + np.float32(0.1) * draws[:, 1:]
    held_out = x[:300], context[:300]
    result = quick(
        jax.random.key(0),
        conditional(),
        x[300:],
        context=context[300:],
        validation=held_out,
        max_epochs=30,
    )
    return held_out, result


def test_context_is_used(regression):
    (x, context), (flow, _) = regression
    right, wrong = (-score(flow, x, given) for given in (context, context[::-1]))
    assert right > wrong + 1.0
    # Without the context at best -3, as for normals with standard deviations 2 and 1.
    assert right > -1.0


def test_validation_with_context(regression):
    (x, context), (flow, history) = regression
    expected = score(flow, x, context)
    np.testing.assert_allclose(history.validation.min(), expected, rtol=AGREE_F32)


def test_custom_loss(key):
    def loss(flow, x, context, weights):
        assert context is None and weights is None
        return jnp.square(flow.bijector(jnp.zeros(2)) - 7.0).sum()

    options = {"batch_size": 32, "max_epochs": 40, "patience": None, "ema": None}
    flow, history = quick(key, affine(), gaussian(), loss=loss, **options)
    np.testing.assert_allclose(flow.bijector.loc, 7.0, atol=0.05)
    assert len(history.train) == 40


def test_any_optimizer_gets_the_loss_and_clipped_gradients(key):
    norms = []

    def update(updates, state, params=None, *, value, **extra):
        jax.debug.callback(norms.append, optax.global_norm(updates))
        return jax.tree.map(lambda u: 0 * value * u, updates), state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    quick(key, affine(), 100 * gaussian(), optimizer=spy, max_epochs=1, clip_norm=2.0)
    jax.effects_barrier()
    assert norms and np.allclose(norms, 2.0)
    norms.clear()
    quick(key, affine(), 100 * gaussian(), optimizer=spy, max_epochs=1, clip_norm=None)
    jax.effects_barrier()
    assert norms and min(norms) > 10


# The base.

BASES = {
    "batched": lambda: dist.Normal(0.0, np.ones(2)),
    "independent": lambda: dist.StudentT(5.0, np.zeros(2), np.ones(2)).to_event(1),
    "expanded": lambda: dist.Independent(dist.Normal(0.0, 1.0).expand((2,)), 1),
    "multivariate": lambda: dist.MultivariateNormal(np.zeros(2), np.eye(2)),
}


def numbers(base) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(base)])


@pytest.mark.parametrize("name", BASES)
def test_trains_the_base_within_its_constraints(name, key):
    x = 1.0 + 0.05 * (gaussian() - MEAN) / DEVIATION
    flow = Flow(BASES[name](), ActNorm((2,)))
    options = {"optimizer": optax.adam(0.1), "max_epochs": 30, "data_init": False, "validation": 0}
    trained, history = quick(key, flow, x, train_base=True, **options)
    assert type(trained.base) is type(flow.base)
    assert history.train[-1] < history.train[0] - 0.5
    before, after = numbers(flow.base), numbers(trained.base)
    assert np.isfinite(after).all() and not np.allclose(before, after, atol=0.1)
    assert np.isfinite(score(trained, x))


def test_the_base_is_fixed_unless_it_is_asked_for(key):
    flow = Flow(BASES["batched"](), ActNorm((2,)))
    fixed, _ = quick(key, flow, gaussian(), max_epochs=1)
    np.testing.assert_array_equal(numbers(fixed.base), numbers(flow.base))


def test_a_base_that_cannot_be_trained(key):
    x = np.random.default_rng(0).uniform(size=(100, 1))
    options = {"train_base": True, "data_init": False, "validation": None}
    with pytest.raises(ValueError, match="`train_base` was given, but a StandardNormal has no par"):
        quick(key, affine(1), x, **options)
    with pytest.raises(TypeError, match="train a Uniform, whose arguments constrain each other"):
        quick(key, Flow(dist.Uniform(np.zeros(1), 2.0), ActNorm((1,))), x, **options)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(np.ones(2) / 2), dist.Normal(np.zeros((1, 2)), 1.0)
    )
    with pytest.raises(TypeError, match="`train_base` cannot train this base: a MixtureSameFamily"):
        quick(key, Flow(mixture, ActNorm((1,))), x, **options)


# What it keeps.


def test_early_stopping_restores_the_best(key):
    held_out = gaussian(1)
    # At this learning rate the loss is a random walk, so that the last epoch is not the best.
    options = {"optimizer": optax.sgd(0.5), "patience": 3, "max_epochs": 200}
    flow, history = quick(key, affine(), gaussian(rows=100), validation=held_out, **options)
    assert history.stopped == "patience"
    assert history.best_epoch == int(np.argmin(history.validation)) == len(history.train) - 4
    np.testing.assert_allclose(score(flow, held_out), history.validation.min(), rtol=AGREE_F32)
    assert history.validation[-1] > history.validation.min()


def test_without_held_out_rows_the_last_parameters_are_kept(key):
    _, history = quick(key, affine(), gaussian(), validation=0, max_epochs=3, patience=1)
    assert history.validation is None
    assert (history.best_epoch, len(history.train), history.stopped) == (2, 3, "max_epochs")


def test_the_average_is_what_is_kept(key):
    options = {"max_epochs": 16, "validation": 0.0}
    plain, plain_history = quick(key, affine(), gaussian(), ema=None, **options)
    averaged, history = quick(key, affine(), gaussian(), ema=0.9, **options)
    np.testing.assert_allclose(history.train, plain_history.train, rtol=AGREE_F32)
    # The parameters move one way from 0 to the mean, so the average lags behind.
    assert 0 < averaged.bijector.loc[0] < plain.bijector.loc[0]


def test_validation_in_chunks_is_the_mean_over_all_rows(key):
    held_out = gaussian(1, 103)  # 7 chunks of 14 rows, and 5 left over
    weights = np.random.default_rng(2).uniform(size=103).astype(np.float32)
    options = {"batch_size": 4, "max_epochs": 1}
    for validation, w in [(held_out, None), ((held_out, None, weights), weights / weights.mean())]:
        flow, history = quick(key, affine(), gaussian(rows=50), validation=validation, **options)
        expected = score(flow, held_out, None, w)
        np.testing.assert_allclose(history.validation[0], expected, rtol=AGREE_F32)


# One row; a full minibatch; two, with a row left over.
@pytest.mark.parametrize("rows", [1, 256, 257])
def test_every_size_of_data(key, rows):
    flow, history = quick(key, affine(), gaussian(rows=rows), validation=0, max_epochs=2)
    assert np.isfinite(history.train).all()
    assert all(np.isfinite(leaf).all() for leaf in leaves(flow))


def test_the_key_determines_the_result():
    a, b, other, old_style = (
        quick(key, affine(), gaussian(), max_epochs=2)
        for key in (*map(jax.random.key, (3, 3, 4)), jax.random.PRNGKey(3))
    )
    assert same(a.flow, b.flow) and same(a.flow, old_style.flow)
    assert np.array_equal(a.history.train, b.history.train)
    assert not np.array_equal(a.history.train, other.history.train)


def test_the_given_flow_survives(key):
    flow = affine()
    quick(key, flow, gaussian(), max_epochs=1)
    assert same(flow, affine())


def test_one_compilation_for_all_epochs_and_for_a_second_fit(key):
    traces = []

    def loss(flow, x, context, weights):
        traces.append(x.shape)
        return negative_log_likelihood(flow, x)

    options = {"loss": loss, "optimizer": optax.adam(1e-2), "ema": 0.9}
    quick(key, affine(), gaussian(), max_epochs=1, **options)
    once = len(traces)
    compiled = epoch_module.run_epoch._cache_size()
    quick(key, affine(), gaussian(), max_epochs=5, **options)
    assert len(traces) == once
    assert epoch_module.run_epoch._cache_size() == compiled


def test_double_precision(key, x64):
    options = {"validation": None, "data_init": False, "max_epochs": 2}
    flow, history = quick(key, affine(), gaussian().astype(float), **options)
    assert {leaf.dtype for leaf in leaves(flow)} == {np.dtype("float64")}
    assert history.best_epoch is not None
