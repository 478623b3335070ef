"""Missing pixels of a linear flow, whose posterior is a Gaussian in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.util import log_density

import flowdists as fd
from flowdists.images import inpaint, inpainting_model
from tests import table
from tests.tolerances import LOG_DET_F64, ROUND_TRIP_F32, STANDARD_ERRORS, TRAINED

SHAPE = (2, 3, 1)
# Not the same pixels for both of the images.
MASKS = np.array([[[1, 1, 0], [0, 1, 0]], [[0, 1, 1], [1, 1, 1]]], bool)[..., None]


def linear_flow(base=None):
    layer = table.perturb(jax.random.key(1), fd.LULinear(jax.random.key(0), SHAPE), 0.4)
    return fd.Flow(fd.StandardNormal(SHAPE) if base is None else base, layer)


def moments(flow):
    """The linear map and the location of the images, in double precision."""
    b = np.asarray(flow.bijector(jnp.zeros(SHAPE)), np.float64).ravel()
    columns = flow.bijector(jnp.eye(6).reshape(6, *SHAPE))
    return np.asarray(columns, np.float64).reshape(6, 6).T - b[:, None], b


def conditional(flow, observed, mask, noise_scale):
    """Mean and covariance of an image given some of its pixels."""
    a, b = moments(flow)
    seen = mask.ravel()
    covariance = a @ a.T
    noise = np.broadcast_to(noise_scale, SHAPE).ravel()[seen] ** 2
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)] + np.diag(noise))
    mean = b + gain @ (np.asarray(observed, np.float64).ravel()[seen] - b[seen])
    return mean.reshape(SHAPE), covariance - gain @ covariance[seen]


def log_joint(flow, x, observed, mask, noise_scale):
    a, b = moments(flow)
    z = np.linalg.solve(a, np.asarray(x, np.float64).ravel() - b)
    terms = dist.Normal(x, noise_scale).log_prob(observed)
    return -0.5 * (z**2).sum() - 3 * np.log(2 * np.pi) + np.where(mask, terms, 0.0).sum()


def images_of(flow, *batch):
    return flow.sample(jax.random.key(3), batch)


def sizes_allowed(flow):
    """How far from the mode images may be whose log density is close to the mode's.

    The posterior of the latents is at least as narrow as their prior.
    """
    return np.linalg.norm(moments(flow)[0], 2) * np.sqrt(2 * TRAINED)


@pytest.mark.parametrize("noise_scale", [0.05, 0.5, np.linspace(0.1, 1.0, 3)[:, None]])
def test_completions_are_conditional_means(noise_scale):
    flow = linear_flow()
    observed = images_of(flow, 2)
    holes = jnp.where(MASKS, observed, jnp.nan)
    images = inpaint(jax.random.key(0), flow, holes, MASKS, noise_scale=noise_scale)
    np.testing.assert_array_equal(images[MASKS], observed[MASKS])
    for image, seen, mask in zip(images, observed, MASKS, strict=True):
        mean, _ = conditional(flow, seen, mask, noise_scale)
        np.testing.assert_allclose(image[~mask], mean[~mask], rtol=0, atol=sizes_allowed(flow))


def test_little_noise_gives_the_regression_on_observed_pixels(x64):
    flow = linear_flow()
    seen, mask = images_of(flow), MASKS[0]
    image = inpaint(jax.random.key(0), flow, seen, mask, noise_scale=0.01, num_steps=3000)
    mean, _ = conditional(flow, seen, mask, 0.0)
    np.testing.assert_allclose(image, mean, rtol=0, atol=sizes_allowed(flow))


def test_nothing_observed_gives_the_mode_and_everything_the_image():
    flow = linear_flow()
    x = images_of(flow, 2)
    mode = flow.bijector(jnp.zeros(SHAPE))
    image = inpaint(jax.random.key(0), flow, jnp.full(SHAPE, jnp.nan), False)
    np.testing.assert_allclose(image, mode, rtol=0, atol=sizes_allowed(flow))
    everything = inpaint(jax.random.key(0), flow, x, True, num_steps=1)
    np.testing.assert_array_equal(everything, x)


def test_the_best_of_iterates_and_chains_counts():
    """A huge learning rate only leads away: then the start itself is the best there is."""
    flow, x, mask = linear_flow(), images_of(linear_flow()), MASKS[0]
    score = lambda image: log_joint(flow, image, x, mask, 0.05)
    run = lambda **options: score(inpaint(jax.random.key(0), flow, x, mask, **options))
    start = run(num_steps=1, learning_rate=1e-8)
    assert abs(run(num_steps=5, learning_rate=1e4) - start) < ROUND_TRIP_F32 * (1 + abs(start))
    assert run(num_steps=1, learning_rate=1e-8, num_chains=20) > start
    exact = score(jnp.where(mask, x, conditional(flow, x, mask, 0.05)[0]))
    assert run(num_chains=3) > exact - 10 * TRAINED


def test_batches_of_masks_and_flows():
    flow = linear_flow()
    image = images_of(flow)
    several = inpaint(jax.random.key(0), flow, image, MASKS, num_steps=3)
    assert several.shape == (2, *SHAPE)
    of_batch = flow.expand((5, 1))
    several = inpaint(jax.random.key(0), of_batch, image, MASKS, num_steps=3, num_chains=2)
    assert several.shape == (5, 2, *SHAPE)
    contexts = table.build_flow("real_nvp", SHAPE, context_shape=(2,)).condition(jnp.ones((4, 2)))
    assert inpaint(jax.random.key(0), contexts, image, MASKS[0], num_steps=3).shape == (4, *SHAPE)
    value = {"z": jnp.zeros((5, 2, *SHAPE))}
    _, trace = log_density(inpainting_model, (of_batch, image, MASKS), {}, value)
    assert trace["x"]["value"].shape == (5, 2, *SHAPE)


def test_a_bounded_base_keeps_its_bounds():
    """Where all latents inside have one density, only the observed pixels decide."""
    flow = fd.Flow(fd.StandardUniform(SHAPE), fd.Affine(-jnp.ones(SHAPE), 2 * jnp.ones(SHAPE)))
    observed = jnp.full(SHAPE, 0.4).at[0, 0, 0].set(3.0)
    image = inpaint(jax.random.key(0), flow, observed, MASKS[0], num_steps=200, learning_rate=0.1)
    np.testing.assert_array_equal(image[MASKS[0]], observed[MASKS[0]])
    assert (jnp.abs(image[~MASKS[0]]) < 1).all()


def test_gradients_reach_flow_and_observations(x64):
    """That of a completion with respect to what was observed is the regression's coefficients."""
    flow, mask = linear_flow(), MASKS[0]
    x = jnp.where(mask, images_of(flow), jnp.nan)
    run = lambda flow, x, s: inpaint(jax.random.key(0), flow, x, mask, noise_scale=s)
    fill = lambda *parts: run(*parts)[~mask].sum()
    of_flow, of_x, of_noise = jax.jit(jax.grad(fill, (0, 1, 2)))(flow, x, 0.3)
    for leaf in jax.tree.leaves(of_flow):
        assert jnp.isfinite(leaf).all() and (leaf != 0).any()
    np.testing.assert_array_equal(of_x[~mask], 0.0)
    location = moments(flow)[1].reshape(SHAPE)
    for pixel in np.argwhere(mask):
        moved = location + np.eye(6)[np.ravel_multi_index(pixel, SHAPE)].reshape(SHAPE)
        effect = (conditional(flow, moved, mask, 0.3)[0] - location)[~mask].sum()
        np.testing.assert_allclose(of_x[tuple(pixel)], effect, rtol=0, atol=ROUND_TRIP_F32)
    # A missing pixel moves with the flow's bias, and the others' biases count as less observed.
    expected = np.where(mask, -of_x, 1.0).ravel()
    np.testing.assert_allclose(of_flow.bijector.bias, expected, rtol=0, atol=ROUND_TRIP_F32)
    total = lambda s: conditional(flow, x, mask, s)[0][~mask].sum()
    slope = (total(0.3 + 1e-5) - total(0.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(of_noise, slope, rtol=0, atol=TRAINED)  # of residuals at the mode


def test_gradients_of_layers_with_reverse_mode_alone(x64):
    """Those of a flow whose backward pass inverts its layers are those of one that stores them."""
    shape, mask = (4, 4, 1), np.arange(4)[:, None, None] < 2

    def gradients(memory):
        flow = fd.Glow(
            KEY, shape, num_scales=1, steps_per_scale=2, hidden_channels=4, memory=memory
        )
        flow = flow.replace(bijector=table.perturb(KEY, flow.bijector, 0.05))
        x = jnp.linspace(-0.5, 0.5, 16).reshape(shape)
        fill = lambda flow, x: inpaint(KEY, flow, x, mask, noise_scale=0.3)[~mask[:, 0, 0]].sum()
        return jax.tree.leaves(jax.jit(jax.grad(fill, (0, 1)))(flow, x))

    # Both are as exact as Adam's mode is, and conjugate gradients.
    for stored, inverted in zip(gradients("store"), gradients("invert"), strict=True):
        assert jnp.linalg.norm(stored - inverted) <= TRAINED * jnp.linalg.norm(stored)


def test_nan_is_not_hidden():
    flow, x = linear_flow(), images_of(linear_flow(), 2)
    hole = x.at[0, 0, 1].set(jnp.nan)
    for function in (functools.partial(inpaint, KEY), inpainting_model):
        with pytest.raises(ValueError, match="`observed` must not hold NaN, got 1 NaN of 12"):
            function(flow, hole, MASKS)
        with pytest.raises(ValueError, match="`observed` must hold continuous pixels, got levels"):
            function(flow, jnp.full_like(x, 200.0), MASKS)
    # Within a trace no error can be raised.
    image = jax.jit(lambda x: inpaint(KEY, flow, x, MASKS, num_steps=3))(hole)
    assert jnp.isnan(image[0][~MASKS[0]]).all()
    assert jnp.isfinite(image[1]).all()


def test_the_model_has_the_joint_density(x64):
    flow = linear_flow()
    observed, z = images_of(flow, 2), flow.base.sample(jax.random.key(5), (2,))
    x = flow.bijector(z)
    holes = jnp.where(MASKS, observed, jnp.nan)
    given, trace = log_density(inpainting_model, (flow, holes, MASKS, 0.3), {}, {"z": z})
    np.testing.assert_array_equal(trace["x"]["value"], x)
    parts = zip(x, observed, MASKS, strict=True)
    expected = sum(log_joint(flow, *part, 0.3) for part in parts)
    np.testing.assert_allclose(given, expected, rtol=LOG_DET_F64)
    density = lambda z: log_density(inpainting_model, (flow, holes, MASKS, 0.3), {}, {"z": z})[0]
    assert jnp.isfinite(jax.grad(density)(z)).all()


def test_a_point_guide_finds_the_same_mode():
    flow = linear_flow()
    observed = images_of(flow, 2)
    svi = SVI(
        inpainting_model,
        AutoDelta(inpainting_model),
        optax.adam(optax.cosine_decay_schedule(0.1, 500)),
        Trace_ELBO(),
    )
    result = svi.run(jax.random.key(0), 500, flow, observed, MASKS, 0.3, progress_bar=False)
    images = flow.bijector(result.params["z_auto_loc"])
    for image, seen, mask in zip(images, observed, MASKS, strict=True):
        mean, _ = conditional(flow, seen, mask, 0.3)
        np.testing.assert_allclose(image, mean, rtol=0, atol=sizes_allowed(flow))


@pytest.mark.heavy
def test_nuts_samples_the_conditional_distribution():
    flow = linear_flow()
    seen, mask = images_of(flow), MASKS[0]
    mcmc = MCMC(NUTS(inpainting_model), num_warmup=300, num_samples=1500, progress_bar=False)
    mcmc.run(jax.random.key(0), flow, seen, mask, 0.3)
    x = np.asarray(mcmc.get_samples()["x"], np.float64).reshape(1500, 6)
    mean, covariance = conditional(flow, seen, mask, 0.3)
    deviation = np.sqrt(np.diag(covariance))
    standardized = (x - mean.ravel()) / deviation
    for moment, expected in ((standardized, 0.0), (standardized**2, 1.0)):
        errors = moment.std(0) / np.sqrt(effective_sample_size(moment[None]))
        assert (np.abs(moment.mean(0) - expected) < STANDARD_ERRORS * errors).all()


@pytest.mark.heavy
def test_a_flow_guide_finds_the_conditional_distribution():
    flow = linear_flow()
    seen, mask = images_of(flow), MASKS[0]
    guide = fd.AutoFlow(inpainting_model)
    fit = fd.fit_guide(
        jax.random.key(0), guide, flow, seen, mask, 0.3, num_steps=200, progress=False
    )
    draws = guide.sample_posterior(jax.random.key(1), fit.params, sample_shape=(4000,))
    x = np.asarray(flow.bijector(draws["z"]), np.float64).reshape(4000, 6)
    mean, covariance = conditional(flow, seen, mask, 0.3)
    errors = STANDARD_ERRORS * np.sqrt(np.diag(covariance) / 4000)
    assert (np.abs(x.mean(0) - mean.ravel()) < errors + TRAINED).all()


X = np.zeros((4, *SHAPE), np.float32)
KEY = jax.random.key(0)
CONDITIONAL = table.build_flow("real_nvp", SHAPE, context_shape=(2,))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: inpaint(KEY, CONDITIONAL, X, MASKS[0]),
            TypeError,
            "inpaint: `flow` must be a Flow, got ConditionalFlow; give it a context first",
        ),
        (
            lambda: inpainting_model(CONDITIONAL, X, MASKS[0]),
            TypeError,
            "inpainting_model: `flow` must be a Flow",
        ),
        (lambda: inpaint(0, linear_flow(), X, MASKS[0]), TypeError, "inpaint: `key` must be one"),
        (
            lambda: inpaint(KEY, linear_flow(), X[..., 0], MASKS[0]),
            ValueError,
            r"`observed` has shape \(4, 2, 3\), expected \(\*batch, 2, 3, 1\)",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0].astype(float)),
            TypeError,
            "inpaint: `mask` must be boolean, got float32",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS),
            ValueError,
            r"the shapes of `observed` and `mask` must broadcast, got \(4, 2, 3, 1\) and \(2, 2, 3",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, np.ones((2, 3, 5), bool)),
            ValueError,
            r"`mask` has shape \(4, 2, 3, 5\), expected \(\*batch, 2, 3, 1\)",
        ),
        (
            lambda: inpaint(KEY, CONDITIONAL.condition(jnp.ones((3, 2))), X, MASKS[0]),
            ValueError,
            r"batch shapes of the images and of `flow` must broadcast, got \(4,\) and \(3,\)",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0], noise_scale=0.0),
            ValueError,
            "inpaint: `noise_scale` must be positive, got 0.0",
        ),
        (
            lambda: inpainting_model(linear_flow(), X, MASKS[0], -1.0),
            ValueError,
            "inpainting_model: `noise_scale` must be positive, got -1.0",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0], num_steps=0),
            ValueError,
            "`num_steps` must be an int of at least 1, got 0",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0], num_chains=0),
            ValueError,
            "`num_chains` must be an int of at least 1, got 0",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0], learning_rate=-1.0),
            ValueError,
            "`learning_rate` must be positive and finite, got -1.0",
        ),
    ],
)
def test_misuse(call, error, match):
    with pytest.raises(error, match=match):
        call()
