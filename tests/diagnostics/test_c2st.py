"""The classifier two-sample test: the best possible accuracy, and the settings of the benchmark."""

import sys

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn import model_selection

from flowdists.diagnostics import c2st
from tests.tolerances import STANDARD_ERRORS

DRAWS = 1000
EPOCHS = 10


def normal(seed, size=DRAWS, event_shape=(2,)):
    return np.random.default_rng(seed).normal(size=(size, *event_shape)).astype(np.float32)


def changed(draws, index, value):
    draws[index] = value
    return draws


def accuracy_error(expected, size=DRAWS):
    return STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / (2 * size))


class TestAccuracy:
    @pytest.mark.parametrize("shift", [0.0, 1.0])
    def test_of_two_normals_it_is_that_of_the_likelihood_ratio(self, key, shift):
        best = stats.norm.cdf(shift / 2)
        given = c2st(key, normal(1), normal(2) + np.float32([shift, 0.0]))
        assert isinstance(given, float)
        assert abs(given - best) < accuracy_error(best)

    def test_a_difference_in_scale_alone_is_seen(self, key):
        # The better guess is by the distance from the origin, which is Rayleigh distributed.
        radius = np.sqrt(2 * np.log(9) / (1 - 1 / 9))
        best = 0.5 + 0.5 * (np.exp(-(radius**2) / 18) - np.exp(-(radius**2) / 2))
        given = c2st(key, normal(1), np.float32(3.0) * normal(2))
        assert abs(given - best) < accuracy_error(best)


# After so few epochs, two different trainings almost never have the same accuracy.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestEquality:
    def test_the_key_decides(self, key):
        x, y = normal(1), normal(2) + 0.5
        assert c2st(key, x, y, max_iter=EPOCHS) == c2st(key, x, y, max_iter=EPOCHS)
        keys = jax.random.split(key, 4)
        assert len({c2st(one, x, y, max_iter=EPOCHS) for one in keys}) > 1

    def test_the_unit_of_the_draws_is_of_no_concern(self, key):
        x, y = normal(1, event_shape=(3,)), normal(2, event_shape=(3,)) + 0.5
        unit = np.float32([0.25, 1.0, 1024.0])
        assert c2st(key, unit * x, unit * y, max_iter=EPOCHS) == c2st(key, x, y, max_iter=EPOCHS)

    @pytest.mark.parametrize("event_shape", [(), (2, 2)])
    def test_events_of_any_rank(self, key, event_shape):
        x, y = normal(1, event_shape=event_shape), normal(2, event_shape=event_shape)
        flat = lambda draws: draws.reshape(len(draws), -1)
        assert c2st(key, x, y, max_iter=EPOCHS) == c2st(key, flat(x), flat(y), max_iter=EPOCHS)


@pytest.fixture
def handed_over(monkeypatch):
    """The arguments that scikit-learn gets; it does not run."""
    given = {}

    def record(network, data, labels, *, cv, scoring):
        given.update(network=network, data=data, labels=labels, cv=cv, scoring=scoring)
        return np.array([0.25, 0.75])

    monkeypatch.setattr(model_selection, "cross_val_score", record)
    return given


class TestSettings:
    def test_those_of_the_benchmark(self, key, handed_over):
        x, y = 2 + 3 * normal(1, 50), normal(2, 50)
        assert c2st(key, x, y, max_iter=77) == 0.5
        data, network, folds = (handed_over[name] for name in ("data", "network", "cv"))
        assert data.dtype == np.float32
        np.testing.assert_array_equal(handed_over["labels"], np.arange(100) >= 50)
        expected = stats.zmap(np.concatenate([x, y]), x, ddof=1)
        np.testing.assert_allclose(data, expected, rtol=1e-5, atol=1e-6)
        options = network.get_params()
        assert options["activation"] == "relu"
        assert options["solver"] == "adam"
        assert options["hidden_layer_sizes"] == (20, 20)
        assert options["max_iter"] == 77
        assert handed_over["scoring"] == "accuracy"
        assert isinstance(folds, model_selection.KFold)
        assert (folds.n_splits, folds.shuffle) == (5, True)
        assert folds.random_state != options["random_state"]

    def test_max_draws_takes_a_random_part_of_either_set(self, key, handed_over):
        x, y = np.arange(200.0), 1000.0 + np.arange(50.0)
        c2st(key, x, y, max_draws=50, num_folds=2)
        first, second = handed_over["data"][:50, 0], handed_over["data"][50:, 0]
        assert len(np.unique(first)) == 50
        assert np.ptp(first) > 2 * np.ptp(second)
        assert (np.diff(second) > 0).all()  # a set that is not larger stays the same
        assert handed_over["cv"].n_splits == 2


def test_without_scikit_learn_it_says_what_to_install(key, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    with pytest.raises(ImportError, match=r"c2st needs scikit-learn.*pip install"):
        c2st(key, normal(1), normal(2))


KEY = jax.random.key(0)
MISUSE = {
    "key": (lambda: c2st(0, normal(1), normal(2)), ["`key`", "0"]),
    "sizes": (lambda: c2st(KEY, normal(1), normal(2, 30)), ["`y`", "1000 and 30", "max_draws"]),
    "sizes, still": (
        lambda: c2st(KEY, normal(1), normal(2, 30), max_draws=40),
        ["40 and 30", "max_draws"],
    ),
    "events": (
        lambda: c2st(KEY, normal(1), normal(2, event_shape=(3,))),
        ["`x` and `y`", "(1000, 2)", "(1000, 3)"],
    ),
    "ints": (lambda: c2st(KEY, normal(1), np.ones((1000, 2), int)), ["`y`", "int"]),
    "no draws": (lambda: c2st(KEY, np.ones((0, 2)), normal(1)), ["`x`", "(0, 2)"]),
    "no elements": (lambda: c2st(KEY, np.ones((9, 0)), np.ones((9, 0))), ["`x`", "(9, 0)"]),
    "fewer than folds": (lambda: c2st(KEY, normal(1, 4), normal(2, 4)), ["`x`", "5 draws"]),
    "a scalar": (lambda: c2st(KEY, 1.0, normal(1)), ["`x`", "()"]),
    "nan": (
        lambda: c2st(KEY, normal(1), changed(normal(2), (7, 1), np.nan)),
        ["`y`", "NaN", "1 of 1000", "index 7"],
    ),
    "infinity": (
        lambda: c2st(KEY, changed(normal(1), (3, 0), np.inf), normal(2)),
        ["`x`", "index 3"],
    ),
    "constant": (
        lambda: c2st(KEY, changed(normal(1), np.s_[:, 1], 5.0), normal(2)),
        ["`x`", "constant", "index 1"],
    ),
    "folds": (lambda: c2st(KEY, normal(1), normal(2), num_folds=1), ["`num_folds`", "2", "1"]),
    "epochs": (lambda: c2st(KEY, normal(1), normal(2), max_iter=0), ["`max_iter`", "0"]),
    "max_draws": (lambda: c2st(KEY, normal(1), normal(2), max_draws=4), ["`max_draws`", "5", "4"]),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    for word in ["c2st: ", *words]:
        assert word in str(raised.value)
