"""Training of guides: what is kept, also when training breaks off."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import infer
from numpyro.infer import autoguide
from scipy import stats

import flowdists as fd
from flowdists.guides import AutoFlow, GuideFit, fit_guide
from tests.tolerances import AGREE_F32, ROUND_TRIP_F64, STANDARD_ERRORS, TRAINED

KEY = jax.random.key(0)


def model(y=1.0):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


def normal_guide(y=1.0):
    loc = numpyro.param("loc", -2.0)
    scale = numpyro.param("scale", 0.1, constraint=dist.constraints.positive)
    numpyro.sample("x", dist.Normal(loc, scale))


def point_guide(y=1.0):
    """Its loss is a function of its parameter, without noise: ``loss_at``."""
    numpyro.sample("x", dist.Delta(numpyro.param("loc", -2.0)))


def loss_at(loc, y=1.0):
    return -stats.norm(0, 1).logpdf(loc) - stats.norm(loc, 1).logpdf(y)


def quick(guide=point_guide, *args, key=KEY, num_steps=200, **options):
    options = {"model": model, "loss": infer.Trace_ELBO(), "progress": False} | options
    return fit_guide(key, guide, *args, num_steps=num_steps, **options)


def there_and_back(turn, end=1.0, rate=0.1):
    """Gradient descent, and from step ``turn`` on ascent."""
    return optax.sgd(lambda step: jnp.where(step < turn, rate, -end * rate))


class TestResult:
    def test_the_conjugate_posterior(self):
        params, losses = quick(normal_guide, num_steps=1500, loss=None, learning_rate=0.02)
        guided = dist.Normal(params["loc"], params["scale"])
        assert dist.kl_divergence(guided, dist.Normal(0.5, 0.5**0.5)) < TRAINED
        assert isinstance(losses, np.ndarray) and losses.shape == (1500,)
        assert losses[-100:].mean() < losses[:100].mean()

    def test_an_automatic_guide_brings_its_model(self):
        guide = AutoFlow(model, fd.MAF, num_layers=2, hidden_sizes=(8,))
        fitted = fit_guide(KEY, guide, num_steps=20, progress=False)
        assert isinstance(fitted, GuideFit)
        evidence = stats.norm(0, 2**0.5).logpdf(1.0)
        np.testing.assert_allclose(-fitted.losses[0], evidence, rtol=1e-4)  # exact from the start
        draws = guide.sample_posterior(KEY, fitted.params, sample_shape=(1000,))["x"]
        assert abs(draws.mean() - 0.5) < STANDARD_ERRORS * (0.5 / 1000) ** 0.5 + 0.01

    def test_every_step_has_its_loss(self):
        for num_steps in (1, 7, 50, 51, 123):
            params, losses = quick(num_steps=num_steps, optimizer=optax.sgd(0.1), clip_norm=None)
            expected, loc = [], -2.0
            for _ in range(num_steps):
                expected.append(loss_at(loc))
                loc -= 0.1 * (2 * loc - 1)
            np.testing.assert_allclose(losses, expected, rtol=1e-5)
            np.testing.assert_allclose(params["loc"], loc, rtol=1e-5)

    def test_the_best_parameters_are_kept_not_the_last(self):
        params, losses = quick(optimizer=there_and_back(100, end=2.0))
        assert losses[-1] > losses[0] > losses.min()
        assert loss_at(params["loc"]) < losses.min() + TRAINED

    def test_of_losses_that_differ_by_noise_the_latest_counts(self):
        """Parameters of later steps have had the lower learning rate."""

        def guide():
            numpyro.param("clock", 0.0)
            numpyro.sample("x", dist.Normal(0.4, 0.6))

        def tick(updates, state, params=None):
            return jax.tree.map(jnp.ones_like, updates), state

        optimizer = optax.GradientTransformation(lambda params: (), tick)
        params, losses = quick(guide, num_steps=500, optimizer=optimizer)
        assert losses.std() > 0.1
        assert params["clock"] > 450

    def test_gradients_are_clipped(self):
        options = {"num_steps": 1, "optimizer": optax.sgd(1.0)}
        for clip_norm, expected in ((None, 3.0), (10.0, 3.0), (1.0, -1.0)):
            params, _ = quick(**options, clip_norm=clip_norm)
            np.testing.assert_allclose(params["loc"], expected, rtol=AGREE_F32)

    def test_one_key_one_result(self):
        first, again = (quick(normal_guide) for _ in range(2))
        other = quick(normal_guide, key=jax.random.key(1))
        np.testing.assert_array_equal(first.losses, again.losses)
        assert first.params == again.params
        assert (first.losses != other.losses).all()

    def test_it_goes_on_from_given_parameters(self):
        params, losses = quick(num_steps=50, optimizer=optax.sgd(0.01))
        rest = quick(num_steps=50, optimizer=optax.sgd(0.01), init_params=params)
        whole = quick(num_steps=100, optimizer=optax.sgd(0.01))
        joined = np.concatenate([losses, rest.losses])
        np.testing.assert_allclose(joined, whole.losses, rtol=1e-5)
        np.testing.assert_allclose(rest.params["loc"], whole.params["loc"], rtol=1e-4)
        some = quick(normal_guide, num_steps=1, optimizer=optax.sgd(0.0), init_params=params)
        np.testing.assert_allclose(some.params["loc"], params["loc"], rtol=AGREE_F32)
        np.testing.assert_allclose(some.params["scale"], 0.1, rtol=AGREE_F32)

    def test_arguments_may_be_python_values_and_one_program_serves_all_steps(self):
        traces = []

        def counted(y, flip=False):
            traces.append(flip)
            assert isinstance(flip, bool)
            model(-y if flip else y)

        guide = lambda y, flip: point_guide()
        numbers = {}
        for num_steps in (60, 500):
            traces.clear()
            params, _ = quick(
                guide,
                jnp.array(1.0),
                flip=True,
                model=counted,
                num_steps=num_steps,
                optimizer=optax.sgd(0.1),
            )
            numbers[num_steps] = len(traces)
        assert numbers[60] == numbers[500]
        np.testing.assert_allclose(params["loc"], -0.5, rtol=1e-4)

    def test_double_precision(self, x64):
        params, losses = quick(num_steps=500, optimizer=optax.sgd(0.1))
        assert params["loc"].dtype == losses.dtype == np.float64
        np.testing.assert_allclose(params["loc"], 0.5, rtol=ROUND_TRIP_F64**0.5)


class TestBreakingOff:
    def test_a_loss_that_is_not_finite(self):
        with pytest.raises(
            fd.NonFiniteLossError, match=r"3 of 4 losses or gradients are not finite within steps"
        ) as raised:
            quick(optimizer=there_and_back(100, end=1e30))
        params, losses = raised.value.result
        assert np.isfinite(params["loc"])
        assert loss_at(params["loc"]) < losses[:100].min() + TRAINED
        assert not np.isfinite(losses).all() and len(losses) < 200

    def test_a_gradient_that_is_never_finite(self):
        def guide():
            loc = numpyro.param("loc", 0.0)
            # Its value is zero, its derivative is not a number.
            numpyro.sample("x", dist.Delta(jnp.sqrt(loc * 0.0)))

        with pytest.raises(fd.NonFiniteLossError, match="1 of 1 losses or gradients") as raised:
            quick(guide, num_steps=1, model=lambda: model())
        assert raised.value.result.params == {"loc": 0.0}

    def test_a_parameter_that_is_not_finite_after_the_last_step(self):
        with pytest.raises(fd.NonFiniteLossError, match="a parameter is not finite") as raised:
            quick(num_steps=1, optimizer=optax.sgd(np.inf))
        assert raised.value.result.params == {"loc": -2.0}
        assert np.isfinite(raised.value.result.losses).all()

    @pytest.mark.parametrize("fault", ["value", "gradient"])
    def test_steps_that_are_not_finite_are_skipped_with_a_warning(self, fault):
        """One particle in a hundred is not a number, or its derivative is none."""

        @jax.custom_jvp
        def at_times(x, is_fault):
            return jnp.where(is_fault & (fault == "value"), jnp.nan, x)

        @at_times.defjvp
        def at_times_jvp(primals, tangents):
            x, is_fault = primals
            return at_times(x, is_fault), jnp.where(is_fault, jnp.nan, 1.0) * tangents[0]

        def faulty():
            is_fault = jax.random.uniform(numpyro.prng_key()) < 0.01
            x = numpyro.sample("x", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(at_times(x, is_fault), 1.0), obs=1.0)

        options = {"model": faulty, "loss": infer.Trace_ELBO(16), "learning_rate": 0.02}
        with pytest.warns(RuntimeWarning, match=r"\d+ of 1500 steps were skipped"):
            params, losses = quick(normal_guide, num_steps=1500, **options)
        # Of a step all 16 particles have to be good.
        expected, error = 1 - 0.99**16, (0.13 / 1500) ** 0.5
        assert abs(np.isnan(losses).mean() - expected) < STANDARD_ERRORS * error
        guided = dist.Normal(params["loc"], params["scale"])
        assert dist.kl_divergence(guided, dist.Normal(0.5, 0.5**0.5)) < TRAINED

    def test_ctrl_c_returns_the_best_so_far(self, monkeypatch):
        module = importlib.import_module("flowdists.guides.fit_guide")
        real, updates = module.progress_bar, []

        def interrupting(*args, **kwargs):
            bar = real(*args, **kwargs)
            show = bar.update

            def update(count):
                updates.append(count)
                if len(updates) == 30:
                    raise KeyboardInterrupt
                show(count)

            bar.update = update
            return bar

        monkeypatch.setattr(module, "progress_bar", interrupting)
        with pytest.warns(RuntimeWarning, match="interrupted after 120 of 200 steps"):
            params, losses = quick(optimizer=there_and_back(80, end=4.0))
        assert losses.shape == (120,)
        assert losses[-1] > losses.min()
        assert loss_at(params["loc"]) < losses.min() + TRAINED

    def test_ctrl_c_before_the_first_steps_are_done(self, monkeypatch):
        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(infer.SVI, "stable_update", interrupted)
        with pytest.warns(RuntimeWarning, match="interrupted after 0 of 200 steps"):
            params, losses = quick()
        assert params == {"loc": -2.0}
        assert losses.shape == (0,)

    def test_the_progress_bar_tells_the_losses(self, capsys):
        quick(num_steps=50, progress=True)
        shown = capsys.readouterr().err
        assert "50/50" in shown and "loss" in shown and "best" in shown


MISUSE = {
    "key": (lambda: fit_guide(0, point_guide, model=model), ["key", "jax.random.key", "0"]),
    "steps": (lambda: quick(num_steps=0), ["num_steps", "at least 1", "0"]),
    "fraction of a step": (lambda: quick(num_steps=1e3), ["num_steps", "1000.0"]),
    "rate": (lambda: quick(learning_rate=-1.0), ["learning_rate", "positive", "-1"]),
    "clip": (lambda: quick(clip_norm=0.0), ["clip_norm", "positive", "0.0"]),
    "no model": (lambda: quick(model=None), ["model", "automatic"]),
    "optimizer": (lambda: quick(optimizer="adam"), ["optimizer", "optax", "str"]),
    "numpyro's optimizer": (
        lambda: quick(optimizer=numpyro.optim.Adam(1e-3)),
        ["optimizer", "optax", "Adam"],
    ),
    "parameter": (
        lambda: quick(init_params={"log": jnp.zeros(())}),
        ["init_params", "log", "loc"],
    ),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    function, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        function()
    for word in words:
        assert word in str(raised.value)


def test_numpyros_guides_can_be_trained():
    guide = autoguide.AutoMultivariateNormal(model)
    params, _ = fit_guide(KEY, guide, num_steps=10, progress=False)
    assert set(params) == {"auto_loc", "auto_scale_tril"}
