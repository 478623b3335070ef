"""A user's first minutes, in seconds: an epoch of `fit`, a file, a step of SVI."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO

import flowdists as fd
from tests.draws import normal
from tests.table import SMALL
from tests.tolerances import LOG_DET_F32

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def fitted() -> fd.FitResult:
    """A flow after one epoch on data whose location is not its own."""
    flow = fd.RealNVP(jax.random.key(0), (2,), num_layers=2, **SMALL)
    x = 3.0 + normal(0, (256, 2))
    return fd.fit(jax.random.key(1), flow, x, max_epochs=1, batch_size=64, progress=False)


def test_an_epoch_of_fit_learns(fitted):
    assert np.isfinite(fitted.history.validation).all()
    # The entropy of the data is 2.84 nats; that of a standard normal with respect to it, 11.84.
    assert fitted.history.validation[0] < 4.0


def test_save_and_load(fitted, tmp_path):
    fd.save(tmp_path / "flow", fitted.flow)
    loaded = fd.load(tmp_path / "flow")
    assert loaded.bijector.eq(fitted.flow.bijector, static=True)


def test_a_flow_is_a_density(fitted):
    @jax.jit
    def score(flow, key):
        x, scores = flow.sample_and_log_prob(key, (8,))
        return flow.log_prob(x), scores

    again, scores = score(fitted.flow, jax.random.key(2))
    np.testing.assert_allclose(again, scores, rtol=LOG_DET_F32, atol=LOG_DET_F32)


def test_a_step_of_svi_moves_every_parameter_of_a_guide():
    def model(y):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)

    guide = fd.AutoFlow(model, flow=fd.MAF, num_layers=1, **SMALL)
    svi = SVI(model, guide, optax.adam(1e-2), Trace_ELBO())
    y = jnp.array([1.0, -1.0])
    state = svi.init(jax.random.key(3), y)
    moved, loss = jax.jit(svi.update)(state, y)
    assert np.isfinite(loss)
    before, after = (jax.tree.leaves(svi.get_params(s)) for s in (state, moved))
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(before, after, strict=True))
