"""`fit`: what it learns, what it keeps, what it refuses."""

import functools
import importlib
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from flowdists import (
    ActNorm,
    Affine,
    AffineCoupling,
    Chain,
    ConditionalFlow,
    Flow,
    Glow,
    PixelLogit,
    StandardNormal,
    io,
)
from flowdists.images import dequantize
from flowdists.training import NonFiniteLossError, fit, negative_log_likelihood
from flowdists.training import epoch as epoch_module
from flowdists.training.checkpoint import Checkpoint
from tests.tolerances import AGREE_F32, STANDARD_ERRORS

MEAN, DEVIATION = jnp.array([3.0, -1.0]), jnp.array([0.5, 2.0])


def affine(size: int = 2) -> Flow:
    """A flow that can be any normal of independent elements, and starts as the standard one."""
    return Flow(StandardNormal((size,)), Affine(jnp.zeros(size), jnp.ones(size)))


def conditional() -> ConditionalFlow:
    keys = jax.random.split(jax.random.key(5))
    options = {"context_shape": (1,), "hidden_sizes": (16,)}
    layers = [AffineCoupling(k, (2,), flip=bool(i), **options) for i, k in enumerate(keys)]
    return ConditionalFlow(StandardNormal((2,)), Chain([*layers, ActNorm((2,))]))


def gaussian(key, rows: int = 2000):
    return MEAN + DEVIATION * jax.random.normal(key, (rows, 2))


def quick(key, flow, x, **options):
    """`fit` with settings for tests; any of them can be overridden."""
    options = {"optimizer": optax.adam(3e-2), "max_epochs": 15, "progress": False, **options}
    return fit(key, flow, x, **options)


def leaves(flow) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(flow.bijector)]


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


# What it makes of the rows first.


def noisy(key, x):
    return x[:, None] + jax.random.normal(key, (len(x), 2))


def test_a_transform_has_fresh_noise_in_training_and_fixed_noise_in_validation(key):
    seen = []

    def loss(flow, x, context, weights):
        jax.debug.callback(seen.append, x.mean())
        return negative_log_likelihood(flow, x)

    frozen = {"optimizer": optax.sgd(0.0), "ema": None, "max_epochs": 3}
    rows, held_out = np.zeros(20, np.uint8), np.zeros(103, np.uint8)
    for batch_size, chunks in [(10, 4), (64, 1)]:  # 4: three of 34 rows, and 1 left over
        seen.clear()
        options = {"validation": held_out, "batch_size": batch_size, **frozen}
        _, history = quick(key, affine(), rows, transform=noisy, loss=loss, **options)
        jax.effects_barrier()
        assert len(set(history.train)) == 3
        assert len(set(history.validation)) == 1
        # Of each minibatch in each epoch, and of each chunk of the held-out rows.
        assert len(set(map(float, seen))) == 3 * math.ceil(20 / batch_size) + chunks


def test_rows_are_transformed_before_data_init(key):
    flow = Flow(StandardNormal((2,)), ActNorm((2,)))
    levels = jnp.full(5000, 3, jnp.uint8)
    frozen = {"optimizer": optax.sgd(0.0), "max_epochs": 1, "validation": 0.0}
    initialized, _ = quick(key, flow, levels, transform=noisy, **frozen)
    start = initialized.bijector(jnp.zeros(2))
    np.testing.assert_allclose(start, 3.0, atol=STANDARD_ERRORS / 4096**0.5)


def test_dequantized_rows(key):
    # Levels 0 to 3, skewed; the best normal is that of the moments, 1/12 of a bin squared wider.
    levels = jnp.asarray(np.random.default_rng(0).binomial(3, 0.2, (2000, 2)), jnp.uint8)
    transform = functools.partial(dequantize, num_bits=2)
    options = {"transform": transform, "max_epochs": 40, "validation": 0.0, "ema": 0.99}
    (flow, history), again = (
        quick(jax.random.key(3), affine(), levels << 6, **options) for _ in range(2)
    )
    loc, scale = flow.bijector.loc, jnp.exp(flow.bijector.log_scale)
    deviation = jnp.sqrt(levels.astype(float).var(0) + 1 / 12) / 4
    np.testing.assert_allclose(loc, (levels.mean(0) + 0.5) / 4 - 0.5, atol=0.1 * deviation.min())
    np.testing.assert_allclose(scale, deviation, rtol=0.1)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(flow), leaves(again[0]), strict=True))
    assert np.array_equal(history.train, again.history.train)


def test_one_compilation_for_a_transform(key):
    optimizer = optax.sgd(0.1)  # each of these is compiled anew too
    transform = functools.partial(dequantize, num_bits=3)
    run = functools.partial(quick, key, affine(), np.ones((50, 2), np.uint8), optimizer=optimizer)
    run(transform=transform, max_epochs=1)
    compiled = epoch_module.run_epoch._cache_size()
    run(transform=transform, max_epochs=4)
    assert epoch_module.run_epoch._cache_size() == compiled
    run(transform=functools.partial(dequantize, num_bits=3), max_epochs=1)
    assert epoch_module.run_epoch._cache_size() == compiled + 1


def unchanged(key, x):
    return x


@pytest.mark.parametrize(
    ("x", "options", "error", "match"),
    [
        (np.ones(10), {"transform": 3}, TypeError, "`transform` must be a function, got int"),
        (
            np.ones((10, 3)),
            {"transform": unchanged},
            ValueError,
            r"`transform` of `x`, float32\[10, 3\], .* shape \(10, 2\), got \(10, 3\)",
        ),
        (
            np.ones((10, 2)),
            {"transform": unchanged, "validation": np.ones((4, 3))},
            ValueError,
            r"`transform` of `validation x`.* shape \(4, 2\), got \(4, 3\)",
        ),
        (
            np.ones((10, 2), np.uint8),
            {"transform": unchanged},
            TypeError,
            "`transform` of `x`.* floating-point dtype, got uint8",
        ),
        (
            np.ones((10, 2)),
            {"transform": lambda key, x: (x, key)},
            TypeError,
            "`transform` of `x`.* must give an array, got tuple",
        ),
        (np.full(10, np.nan), {}, ValueError, "`x` must be finite, .* in 10 of 10 rows"),
        (np.ones(()), {}, ValueError, r"`x` has shape \(\), expected \(n, ...\)"),
        (np.ones((0,), np.uint8), {}, ValueError, "`x` is empty"),
        ("data", {}, TypeError, "`x` must be an array, got str"),
    ],
)
def test_misuse_of_transform(x, options, error, match):
    with pytest.raises(error, match=match):
        quick(jax.random.key(0), affine(), x, **{"transform": noisy, **options})


def test_an_error_of_the_transform_says_whence(key):
    with pytest.raises(TypeError, match="must be uint8") as e:
        quick(key, affine(), GOOD, transform=dequantize)
    assert "fit: raised by `transform` for `x` of float32[10, 2]" in e.value.__notes__


def test_a_transform_that_cannot_be_hashed():
    class Shift:
        __hash__ = None

        def __call__(self, key, x):
            return x

    with pytest.raises(TypeError, match=r"`transform` must be hashable, .* got Shift"):
        quick(jax.random.key(0), affine(), GOOD, transform=Shift())


# When it breaks off.


def fails_after(steps: float):
    """A loss that becomes NaN once the location has moved far enough from its start."""

    def loss(flow, x, context, weights):
        moved = jnp.abs(flow.bijector(jnp.zeros(2))).max()
        return negative_log_likelihood(flow, x) + jnp.where(moved > steps, jnp.nan, 0.0)

    return loss


def test_a_loss_that_is_not_finite(key, tmp_path):
    path = tmp_path / "flow.safetensors"
    with pytest.raises(
        NonFiniteLossError, match=r"in epoch \d+ .* minibatch \d+ of 8 was nan"
    ) as e:
        quick(key, affine(), gaussian(key), loss=fails_after(1.0), checkpoint=path)
    flow, history = e.value.result
    assert isinstance(e.value, FloatingPointError)
    assert history.stopped == "non-finite loss"
    assert len(history.train) >= 1 and np.isfinite(history.train).all()
    assert np.isfinite(history.validation).all()
    assert all(np.isfinite(leaf).all() for leaf in leaves(flow))
    achieved = leaves(io.load(path, like=affine()))
    assert all(np.array_equal(a, b) for a, b in zip(leaves(flow), achieved, strict=True))


def test_a_loss_that_is_never_finite(key, tmp_path):
    path = tmp_path / "flow.safetensors"
    with pytest.raises(NonFiniteLossError, match="in epoch 0") as e:
        quick(key, affine(), gaussian(key, 100), loss=fails_after(-1.0), checkpoint=path)
    flow, history = e.value.result
    assert history.best_epoch is None and history.train.shape == (0,)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(flow), leaves(affine()), strict=True))
    assert not path.exists()


def test_held_out_rows_outside_of_the_support(key):
    flow = Flow(dist.Uniform(-jnp.ones(1), 1.0), Affine(jnp.zeros(1), jnp.ones(1)))
    x = jax.random.uniform(key, (50, 1))
    with pytest.raises(NonFiniteLossError, match="the loss of the held-out rows was inf"):
        quick(key, flow, x, validation=x + 100.0)


def test_parameters_that_become_infinite_in_the_last_step(key):
    destroy = optax.stateless(lambda updates, params: jax.tree.map(lambda u: u / 0, updates))
    with pytest.raises(NonFiniteLossError, match="a parameter was not finite") as e:
        quick(key, affine(), gaussian(key, 50), optimizer=destroy, validation=0)
    assert all(np.isfinite(leaf).all() for leaf in leaves(e.value.result.flow))


def test_ctrl_c_returns_the_best_so_far(key, monkeypatch, tmp_path):
    path = tmp_path / "flow.safetensors"
    calls = []
    real = epoch_module.run_epoch

    def interrupted(*args):
        # The epoch runs, takes its donated input along, and its result is lost.
        result = real(*args)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return result

    module = importlib.import_module("flowdists.training.fit")
    monkeypatch.setattr(module, "run_epoch", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted after 2 of 15 epochs"):
        flow, history = quick(key, affine(), gaussian(key, 300), checkpoint=path)
    assert history.stopped == "interrupted" and len(history.train) == 2
    monkeypatch.undo()
    expected, _ = quick(key, affine(), gaussian(key, 300), max_epochs=2)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(flow), leaves(expected), strict=True))
    assert path.exists()


def test_checkpoints_are_written_in_passing(key, monkeypatch, tmp_path):
    path, flow = tmp_path / "flow.safetensors", affine()
    writer = Checkpoint(path, flow)
    writer.update(True, lambda: flow)
    assert not path.exists()  # not long enough ago
    monkeypatch.setattr("flowdists.training.checkpoint.INTERVAL", 0.0)
    writer.update(False, lambda: flow)
    assert path.exists()
    path.unlink()
    writer.write(lambda: flow)
    assert not path.exists()  # nothing has changed
    with pytest.raises(FileNotFoundError, match="`checkpoint` is in a folder that does not exist"):
        quick(key, flow, gaussian(key, 50), checkpoint=tmp_path / "missing" / "flow")


def test_progress(key, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(key, affine(), gaussian(key, 100), max_epochs=1, progress=True)
        shown = capsys.readouterr().err
        assert all(word in shown for word in ("train=", "validation=", "best=", "1/1"))
        quick(key, affine(), gaussian(key, 100), max_epochs=1)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


# What it refuses.

GOOD = np.ones((10, 2), np.float32)
HOLES = GOOD.copy()
HOLES[[4, 7], 1] = np.nan


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"x": HOLES}, ValueError, "`x` must be finite, .* in 2 of 10 rows, first in row 4"),
        ({"x": GOOD[:0]}, ValueError, "`x` is empty"),
        ({"x": GOOD[:, :1]}, ValueError, r"`x` has shape \(10, 1\), expected \(n, 2\)"),
        ({"x": GOOD[0, 0]}, ValueError, r"`x` has shape \(\), expected \(n, 2\)"),
        ({"x": GOOD.astype(int)}, TypeError, "`x` must have a floating-point dtype"),
        ({"x": "data"}, TypeError, "`x` must be a floating-point array, got str"),
        ({"context": GOOD}, ValueError, r"`context` was given \(shape \(10, 2\)\)"),
        ({"weights": -np.ones(10)}, ValueError, "`weights` must not be negative, but 10 are"),
        ({"weights": np.ones(9)}, ValueError, r"`weights` has shape \(9,\), expected \(10,\)"),
        ({"weights": np.full(10, np.nan)}, ValueError, "`weights` must be finite"),
        ({"weights": np.zeros(10)}, ValueError, "`weights` must not all be zero"),
        ({"weights": np.ones(10, int)}, TypeError, "`weights` must have a floating-point dtype"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an int of at least 1, got 0"),
        ({"max_epochs": 0}, ValueError, "`max_epochs` must be an int of at least 1, got 0"),
        ({"max_epochs": 2.0}, ValueError, "`max_epochs` must be an int of at least 1, got 2.0"),
        ({"patience": 0}, ValueError, "`patience` must be an int of at least 1, got 0"),
        ({"validation": 1.0}, ValueError, r"`validation` must be a fraction in \[0, 1\)"),
        ({"validation": -0.1}, ValueError, r"`validation` must be a fraction in \[0, 1\)"),
        ({"validation": True}, ValueError, r"`validation` must be a fraction in \[0, 1\)"),
        ({"validation": "half"}, ValueError, "`validation` must be a fraction"),
        ({"validation": 0.99}, ValueError, "`validation` of 0.99 leaves no row to train on"),
        ({"validation": HOLES}, ValueError, "`validation x` must be finite"),
        ({"validation": ()}, ValueError, "`validation` as a tuple must be .* got 0 entries"),
        ({"validation": (GOOD, GOOD)}, ValueError, "`validation context` was given"),
        ({"learning_rate": -1.0}, ValueError, "`learning_rate` must be positive and finite"),
        (
            {"learning_rate": 1e-3, "optimizer": optax.sgd(1.0)},
            ValueError,
            "`optimizer` was given: set it there",
        ),
        ({"optimizer": "adam"}, TypeError, "`optimizer` must be an optax optimizer.* got str"),
        ({"loss": "nll"}, TypeError, "`loss` must be a function, got str"),
        ({"clip_norm": 0.0}, ValueError, "`clip_norm` must be positive and finite"),
        ({"ema": 1.0}, ValueError, "`ema` must be a decay between 0 and 1, or None, got 1.0"),
        ({"key": 0}, TypeError, "`key` must be one PRNG key"),
        ({"flow": StandardNormal((2,))}, TypeError, "`flow` must be a Flow or ConditionalFlow"),
        ({"flow": affine().expand((3,))}, ValueError, r"no batch axes, got batch shape \(3,\)"),
        (
            {"flow": conditional().condition(np.ones(1, np.float32))},
            ValueError,
            "`flow` must not be conditioned yet",
        ),
    ],
)
def test_misuse(options, error, match):
    arguments = {"key": jax.random.key(0), "flow": affine(), "x": GOOD, **options}
    key, flow, x = (arguments.pop(name) for name in ("key", "flow", "x"))
    with pytest.raises(error, match=match):
        fit(key, flow, x, progress=False, **arguments)


@pytest.mark.parametrize(
    ("context", "error", "match"),
    [
        (None, ValueError, r"`context` is missing, expected an array of shape \(10, 1\)"),
        (np.ones((9, 1)), ValueError, r"`context` has shape \(9, 1\), expected \(10, 1\)"),
        (np.ones((10, 1), int), TypeError, "`context` must have a floating-point dtype"),
        (np.full((10, 1), np.inf), ValueError, "`context` must be finite, .* in 10 of 10 rows"),
    ],
)
def test_misuse_of_context(context, error, match):
    with pytest.raises(error, match=match):
        fit(jax.random.key(0), conditional(), GOOD, context=context, progress=False)


def test_a_flow_with_nothing_to_train(key):
    flow = Flow(StandardNormal((2,)), dist.transforms.ExpTransform())
    with pytest.raises(ValueError, match="`flow` has no parameters to train"):
        quick(key, flow, jnp.ones((10, 2)))
