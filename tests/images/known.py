"""Images of two pixels of two bits, and densities that give them masses known in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import flowdists as fd

SHAPE = (1, 2, 1)
BITS = 2
# Every image of two pixels of two bits; what lower bits the pixels have should not matter.
LEVELS = np.array(list(itertools.product(range(4), repeat=2)), np.uint8).reshape(-1, *SHAPE)
IMAGES = (LEVELS << 6) + np.arange(LEVELS.size, dtype=np.uint8).reshape(LEVELS.shape)


class Histogram(fd.Bijector):
    """From the uniform distribution on (0, 1) to one that is constant on each of equal bins."""

    logits: jax.Array
    event_shape: tuple = fd.static()

    def _parts(self):
        mass = jax.nn.softmax(self.logits)
        return mass, jnp.cumsum(mass) - mass

    def forward_and_log_det(self, x, context=None):
        mass, before = self._parts()
        k = jnp.searchsorted(before, x, side="right") - 1
        y = (k + (x - before[k]) / mass[k]) / len(mass) - 0.5
        return y, -jnp.log(mass[k] * len(mass)).sum((-3, -2, -1))

    def inverse_and_log_det(self, y, context=None):
        mass, before = self._parts()
        position = (y + 0.5) * len(mass)
        k = jnp.clip(jnp.floor(position), 0, len(mass) - 1).astype(int)
        x = before[k] + mass[k] * (position - k)
        return x, jnp.log(mass[k] * len(mass)).sum((-3, -2, -1))


LOGITS = np.array([0.3, -1.0, 2.0, 0.5], np.float32)


def histogram_flow():
    layer = Histogram(jnp.asarray(LOGITS), SHAPE)
    return fd.Flow(fd.StandardUniform(SHAPE), layer)


LOC, SCALE = np.array([-0.1, 0.2]), np.array([0.12, 0.3])


def normal_flow():
    loc, scale = (jnp.asarray(v.reshape(SHAPE), jnp.float32) for v in (LOC, SCALE))
    return fd.Flow(fd.StandardNormal(SHAPE), fd.Affine(loc, scale))


def exact_normal_log_mass(levels):
    levels = levels.reshape(-1, 2)
    cdf = lambda k: stats.norm.cdf(k / 2**BITS - 0.5, LOC, SCALE)
    return np.log(cdf(levels + 1.0) - cdf(levels)).sum(-1)
