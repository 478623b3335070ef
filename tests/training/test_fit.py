"""`fit`: what it learns, and what it keeps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from flowdists import ActNorm, Chain, Flow, Glow, PixelLogit, StandardNormal
from flowdists.images import dequantize
from flowdists.training import epoch as epoch_module
from flowdists.training import fit, negative_log_likelihood
from tests.tolerances import AGREE_F32, STANDARD_ERRORS
from tests.training.problems import DEVIATION, MEAN, affine, conditional, gaussian, leaves, quick

# What it learns.


def test_recovers_the_likelihood_of_a_known_normal(key):
    x = gaussian(key)
    flow, history = quick(key, affine(), x, max_epochs=40)
    test = gaussian(jax.random.key(9), 5000)
    truth = dist.Normal(MEAN, DEVIATION).to_event(1)
    gap = truth.log_prob(test) - flow.log_prob(test)
    # The gap of the maximum-likelihood estimate is chi-squared with 4 degrees over 2 n; the noise
    # of the optimizer, at a fixed step, is allowed as much again.
    allowed = 2 * STANDARD_ERRORS * 4 / (2 * 2000)
    assert -allowed < float(gap.mean()) < allowed
    assert history.train[-1] < history.train[0]
    assert history.stopped in ("max_epochs", "patience")


def test_default_optimizer_ends_at_rate_zero_and_improves(key):
    _, history = fit(
        key,
        affine(),
        gaussian(key),
        learning_rate=0.05,
        batch_size=64,
        max_epochs=20,
        progress=False,
    )
    entropy = float(jnp.log(DEVIATION).sum()) + 1 + math.log(2 * math.pi)
    # The log-density of two normals has variance 1; 200 rows were held out.
    assert abs(history.validation[history.best_epoch] - entropy) < STANDARD_ERRORS / 200**0.5
    changes = np.abs(np.diff(history.validation))
    assert changes[-1] < 0.05 * changes.max()


def test_weights_select_one_of_two_clusters(key):
    x = jnp.concatenate([gaussian(key), gaussian(jax.random.key(1)) + 20.0])
    weights = jnp.concatenate([jnp.ones(2000), jnp.zeros(2000)])
    flow, _ = quick(key, affine(), x, weights=weights, max_epochs=40)
    assert abs(np.asarray(flow.bijector(jnp.zeros(2))) - np.asarray(MEAN)).max() < 0.3


def test_only_the_ratios_of_weights_matter(key):
    x = gaussian(key, 300)
    weights = jax.random.uniform(jax.random.key(1), (300,))
    a = quick(key, affine(), x, weights=weights, max_epochs=2)
    b = quick(key, affine(), x, weights=1024 * weights, max_epochs=2)
    np.testing.assert_allclose(a.history.train, b.history.train, rtol=AGREE_F32)


def test_context_is_used(key):
    context = jax.random.normal(key, (3000, 1))
    x = context * jnp.array([2.0, -1.0]) + 0.1 * jax.random.normal(jax.random.key(1), (3000, 2))
    flow, _ = quick(key, conditional(), x, context=context, max_epochs=30)
    right = flow.condition(context).log_prob(x).mean()
    wrong = flow.condition(context[::-1]).log_prob(x).mean()
    assert right > wrong + 1.0
    assert right > -1.0  # without the context at best -3, the entropy of normals of deviation 2, 1


def test_data_init(key):
    flow = Flow(StandardNormal((2,)), ActNorm((2,)))
    frozen = {"optimizer": optax.sgd(0.0), "max_epochs": 1, "validation": 0.0}
    initialized, _ = quick(key, flow, gaussian(key), **frozen)
    z = initialized.bijector.inverse(gaussian(key))
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(z.std(0), 1.0, atol=1e-3)
    untouched, _ = quick(key, flow, gaussian(key), data_init=False, **frozen)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(untouched), leaves(flow), strict=True))


@pytest.mark.parametrize(
    ("event_shape", "rows", "batch_size", "expected"),
    [
        ((2,), 5000, 256, 4096),
        ((2,), 100, 256, 100),
        ((64, 64, 3), 200, 16, 170),  # 2**21 elements
        ((64, 64, 3), 200, 180, 180),
    ],
)
def test_data_init_takes_as_many_rows_as_fit(
    event_shape, rows, batch_size, expected, key, monkeypatch
):
    seen = []
    real = ActNorm.data_init

    def spy(layer, value, context=None, direction="inverse"):
        seen.append(len(value))
        return real(layer, value, context, direction)

    monkeypatch.setattr(ActNorm, "data_init", spy)
    flow = Flow(StandardNormal(event_shape), ActNorm(event_shape))
    x = np.zeros((rows, *event_shape), np.float32)
    quick(key, flow, x, batch_size=batch_size, validation=0.0, max_epochs=1)
    assert seen == [expected]


def test_images_that_are_levels_are_refused(key):
    shape = (4, 4, 1)
    options = {"num_scales": 1, "steps_per_scale": 1, "hidden_channels": 4}
    images = np.arange(32, dtype=np.uint8).reshape(2, *shape)
    levels, pixels = images.astype(np.float32), images / np.float32(256) - 0.5
    flow = Glow(key, shape, **options)
    refused = functools.partial(pytest.raises, ValueError)
    for given in (flow, flow.replace(bijector=Chain([flow.bijector, PixelLogit(shape)]))):
        with refused(match="`x` must hold continuous pixels.*up to 31; keep .*transform=flowdists"):
            quick(key, given, levels)
    conditional, context = Glow(key, shape, context_shape=(1,), **options), np.ones((2, 1))
    with refused(match="`x` must hold continuous pixels"):
        quick(key, conditional, levels, context=context)
    with refused(match="`validation x` must hold continuous pixels"):
        quick(key, flow, pixels, validation=levels)
    with refused(match="`a batch's x` must hold continuous pixels"):
        quick(key, flow, iter([levels]))
    with pytest.raises(TypeError, match="got uint8; keep images of levels 0 to 255 as uint8"):
        quick(key, flow, images)
    quick(key, flow, images, transform=dequantize, max_epochs=1)
    quick(key, Flow(StandardNormal(shape), ActNorm(shape)), levels, max_epochs=1)  # no Glow


def test_custom_loss(key):
    def loss(flow, x, context, weights):
        assert context is None and weights is None
        return jnp.square(flow.bijector(jnp.zeros(2)) - 7.0).sum()

    options = {"max_epochs": 40, "patience": None, "ema": None}
    flow, history = quick(key, affine(), gaussian(key), loss=loss, **options)
    np.testing.assert_allclose(flow.bijector(jnp.zeros(2)), 7.0, atol=0.05)
    assert len(history.train) == 40


def test_any_optimizer_gets_the_loss_and_clipped_gradients(key):
    norms = []

    def update(updates, state, params=None, *, value, **extra):
        jax.debug.callback(norms.append, optax.global_norm(updates))
        return jax.tree.map(lambda u: 0 * value * u, updates), state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    quick(key, affine(), 100 * gaussian(key, 300), optimizer=spy, max_epochs=1, clip_norm=2.0)
    jax.effects_barrier()
    assert norms and np.allclose(norms, 2.0)
    norms.clear()
    quick(key, affine(), 100 * gaussian(key, 300), optimizer=spy, max_epochs=1, clip_norm=None)
    jax.effects_barrier()
    assert norms and min(norms) > 10


# The base.


@pytest.mark.parametrize(
    "base",
    [
        dist.Normal(0.0, jnp.ones(2)),
        dist.StudentT(5.0, jnp.zeros(2), jnp.ones(2)).to_event(1),
        dist.Independent(dist.Normal(0.0, 1.0).expand((2,)), 1),
        dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)),
    ],
    ids=["batched", "independent", "expanded", "multivariate"],
)
def test_trains_the_base_within_its_constraints(key, base):
    x = 0.05 * jax.random.normal(key, (1000, 2)) + 1.0
    flow = Flow(base, ActNorm((2,)))
    kwargs = {"optimizer": optax.adam(0.1), "data_init": False, "validation": 0.0}
    trained, history = quick(key, flow, x, train_base=True, **kwargs)
    assert type(trained.base) is type(flow.base)
    assert history.train[-1] < history.train[0] - 0.5
    before, after = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(f.base)])
        for f in (flow, trained)
    )
    assert np.isfinite(after).all() and not np.allclose(before, after, atol=0.1)
    assert np.isfinite(trained.log_prob(x)).all()
    fixed, _ = quick(key, flow, x, **kwargs)
    assert jax.tree.leaves(fixed.base) == jax.tree.leaves(flow.base) or all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(fixed.base), jax.tree.leaves(flow.base), strict=True)
    )


def test_a_base_that_cannot_be_trained(key):
    x = jax.random.uniform(key, (100, 1))
    with pytest.raises(ValueError, match="`train_base` was given, but a StandardNormal has no par"):
        quick(key, affine(1), x, train_base=True)
    with pytest.raises(TypeError, match="train a Uniform, whose arguments constrain each other"):
        quick(key, Flow(dist.Uniform(jnp.zeros(1), 2.0), ActNorm((1,))), x, train_base=True)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.zeros((1, 2)), 1.0)
    )
    with pytest.raises(TypeError, match="`train_base` cannot train this base: a MixtureSameFamily"):
        quick(key, Flow(mixture, ActNorm((1,))), x, train_base=True)


# What it keeps.


def test_early_stopping_restores_the_best(key):
    x, held_out = gaussian(key, 100), gaussian(jax.random.key(1), 100)
    # At this learning rate the loss is a random walk, so that the last epoch is not the best.
    flow, history = quick(
        key, affine(), x, validation=held_out, optimizer=optax.sgd(0.5), patience=3, max_epochs=200
    )
    assert history.stopped == "patience"
    assert history.best_epoch == int(np.argmin(history.validation)) == len(history.train) - 4
    achieved = float(negative_log_likelihood(flow, held_out))
    np.testing.assert_allclose(achieved, history.validation.min(), rtol=AGREE_F32)
    assert history.validation[-1] > history.validation.min()


def test_without_held_out_rows_the_last_parameters_are_kept(key):
    _, history = quick(key, affine(), gaussian(key, 100), validation=0, max_epochs=3, patience=1)
    assert history.validation is None
    assert (history.best_epoch, len(history.train), history.stopped) == (2, 3, "max_epochs")


def test_the_average_is_what_is_kept(key):
    options = {"max_epochs": 4, "validation": 0.0}
    x = gaussian(key)
    plain, plain_history = quick(key, affine(), x, ema=None, **options)
    averaged, history = quick(key, affine(), x, ema=0.9, **options)
    np.testing.assert_allclose(history.train, plain_history.train, rtol=AGREE_F32)
    # The parameters move one way from 0 to the mean, so the average lags behind.
    reached, lagging = (float(f.bijector(jnp.zeros(2))[0]) for f in (plain, averaged))
    assert 0 < lagging < reached


def test_validation_in_chunks_is_the_mean_over_all_rows(key):
    held_out = gaussian(jax.random.key(1), 103)  # 7 chunks of 14 rows, and 5 left over
    weights = jax.random.uniform(jax.random.key(2), (103,))
    for validation, w in [(held_out, None), ((held_out, None, weights), weights / weights.mean())]:
        flow, history = quick(
            key, affine(), gaussian(key, 50), validation=validation, batch_size=4, max_epochs=1
        )
        expected = float(negative_log_likelihood(flow, held_out, None, w))
        np.testing.assert_allclose(history.validation[0], expected, rtol=AGREE_F32)


def test_validation_with_context(key):
    context = jax.random.normal(key, (100, 1))
    x = gaussian(key, 100)
    flow, history = quick(
        key, conditional(), x, context=context, validation=(x[:30], context[:30]), max_epochs=1
    )
    expected = float(negative_log_likelihood(flow, x[:30], context[:30]))
    np.testing.assert_allclose(history.validation[0], expected, rtol=AGREE_F32)


@pytest.mark.parametrize("rows", [1, 7, 256, 257, 511])
def test_every_size_of_data(key, rows):
    flow, history = quick(key, affine(), gaussian(key, rows), validation=0, max_epochs=2)
    assert np.isfinite(history.train).all()
    assert all(np.isfinite(leaf).all() for leaf in leaves(flow))


def test_the_key_determines_the_result(key):
    x = gaussian(key, 500)
    a, b = (quick(jax.random.key(3), affine(), x, max_epochs=2) for _ in range(2))
    other = quick(jax.random.key(4), affine(), x, max_epochs=2)
    assert all(np.array_equal(p, q) for p, q in zip(leaves(a.flow), leaves(b.flow), strict=True))
    assert np.array_equal(a.history.train, b.history.train)
    assert not np.array_equal(a.history.train, other.history.train)
    quick(jax.random.PRNGKey(3), affine(), x, max_epochs=1)


def test_the_given_flow_survives(key):
    flow = affine()
    before = leaves(flow)
    quick(key, flow, gaussian(key, 100), max_epochs=1)
    assert all(np.array_equal(a, b) for a, b in zip(before, leaves(flow), strict=True))


def test_one_compilation_for_all_epochs_and_for_a_second_fit(key):
    traces = []

    def loss(flow, x, context, weights):
        traces.append(x.shape)
        return negative_log_likelihood(flow, x)

    x, optimizer = gaussian(key, 300), optax.adam(1e-2)
    quick(key, affine(), x, loss=loss, optimizer=optimizer, max_epochs=1, ema=0.9)
    once = len(traces)
    compiled = epoch_module.run_epoch._cache_size()
    quick(key, affine(), x, loss=loss, optimizer=optimizer, max_epochs=5, ema=0.9)
    assert len(traces) == once
    assert epoch_module.run_epoch._cache_size() == compiled


def test_double_precision(key, x64):
    flow, history = quick(key, affine(), gaussian(key, 100).astype(float), max_epochs=2)
    assert {leaf.dtype for leaf in leaves(flow)} == {np.dtype("float64")}
    assert history.best_epoch is not None
