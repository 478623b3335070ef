"""`fit`: how training breaks off, and what is kept then."""

import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from flowdists import Affine, Flow, io
from flowdists.training import NonFiniteLossError, negative_log_likelihood
from flowdists.training import epoch as epoch_module
from flowdists.training.checkpoint import Checkpoint
from flowdists.training.parameters import take_parameters
from tests.training.problems import affine, gaussian, leaves, quick, same


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
        quick(key, affine(), gaussian(rows=2000), loss=fails_after(1.0), checkpoint=path)
    flow, history = e.value.result
    assert isinstance(e.value, FloatingPointError)
    assert history.stopped == "non-finite loss"
    assert len(history.train) >= 1 and np.isfinite(history.train).all()
    assert np.isfinite(history.validation).all()
    assert all(np.isfinite(leaf).all() for leaf in leaves(flow))
    assert same(flow, io.load(path, like=affine()))


def test_a_loss_that_is_never_finite(key, tmp_path):
    path = tmp_path / "flow.safetensors"
    with pytest.raises(NonFiniteLossError, match="in epoch 0") as e:
        quick(key, affine(), gaussian(), loss=fails_after(-1.0), checkpoint=path)
    flow, history = e.value.result
    assert history.best_epoch is None and history.train.shape == (0,)
    assert same(flow, affine())
    assert not path.exists()


def test_held_out_rows_outside_of_the_support(key):
    flow = Flow(dist.Uniform(-np.ones(1), 1.0), Affine(np.zeros(1), np.ones(1)))
    x = np.random.default_rng(0).uniform(size=(50, 1))
    with pytest.raises(NonFiniteLossError, match="the loss of the held-out rows was inf"):
        quick(key, flow, x, validation=x + 100.0)


def test_parameters_that_become_infinite_in_the_last_step(key):
    destroy = optax.stateless(lambda updates, params: jax.tree.map(lambda u: u / 0, updates))
    with pytest.raises(NonFiniteLossError, match="a parameter was not finite") as e:
        quick(key, affine(), gaussian(rows=50), optimizer=destroy, validation=0)
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
        flow, history = quick(key, affine(), gaussian(), checkpoint=path)
    assert history.stopped == "interrupted" and len(history.train) == 2
    monkeypatch.undo()
    expected, _ = quick(key, affine(), gaussian(), max_epochs=2)
    assert same(flow, expected)
    assert path.exists()


def test_checkpoints_are_written_in_passing(key, monkeypatch, tmp_path):
    path, flow = tmp_path / "flow.safetensors", affine()
    parameters = take_parameters(flow, train_base=False)
    writer = Checkpoint(path, flow)
    writer.update(True, parameters)
    assert not path.exists()  # not long enough ago
    monkeypatch.setattr("flowdists.training.checkpoint.INTERVAL", 0.0)
    writer.update(False, parameters)
    assert path.exists()
    path.unlink()
    writer.write()
    assert not path.exists()  # nothing has changed
    with pytest.raises(FileNotFoundError, match="`checkpoint` is in a folder that does not exist"):
        quick(key, flow, gaussian(), checkpoint=tmp_path / "missing" / "flow")


def test_progress(key, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(key, affine(), gaussian(), max_epochs=1, progress=True)
        shown = capsys.readouterr().err
        assert all(word in shown for word in ("train=", "validation=", "best=", "1/1"))
        quick(key, affine(), gaussian(), max_epochs=1)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""
