"""A model with a closed-form posterior, and settings to learn it with."""

import numpyro
import numpyro.distributions as dist

import flowdists as fd

SMALL = {"num_layers": 1, "hidden_sizes": (8,)}
TINY = {
    "flow": fd.MAF,
    "flow_options": SMALL,
    "fit_options": {"max_epochs": 2, "progress": False},
}


def gaussian():
    loc = numpyro.sample("loc", dist.Normal(100.0, 20.0))
    numpyro.sample("x", dist.Normal(loc, 10.0).expand([4]).to_event(1))


def exact(x):
    """The closed-form posterior of the Gaussian model."""
    precision = 1 / 20.0**2 + 4 / 10.0**2
    return (100.0 / 20.0**2 + x.sum() / 10.0**2) / precision, precision**-0.5


# An affine flow can represent the posterior, and compiles fast. The default flow takes longer.
LEARNING = {
    "affine": {
        "num_simulations": 10_000,
        "flow": fd.MAF,
        "flow_options": {"num_layers": 1, "hidden_sizes": (16,)},
        "fit_options": {"max_epochs": 40, "learning_rate": 5e-3, "progress": False},
    },
    "default": {
        "num_simulations": 20_000,
        "flow_options": {"num_layers": 2, "hidden_sizes": (32, 32)},
        "fit_options": {"max_epochs": 20, "progress": False},
    },
}
