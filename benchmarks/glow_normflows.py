"""The multi-scale Glow of normflows, a PyTorch library, for comparison with ours.

It is built as in that library's own example: affine couplings with a sigmoid, learned Gaussians per
channel as priors. These priors do not depend on the other scales, as ours do.

Next to other jobs, set OMP_WAIT_POLICY=PASSIVE: PyTorch's threads otherwise wait for each other at
full load, and its times are several times too long.
"""

import normflows as nf
import torch


def build(event_shape, steps: int, channels: int, scales: int) -> nf.MultiscaleFlow:
    """An untrained Glow for images ``(batch, C, H, W)``; ``event_shape`` is ``(H, W, C)``."""
    height, width, colors = event_shape
    bases, flows, merges = [], [], []
    for depth in range(scales, 0, -1):  # the coarsest scale first
        in_channels = colors * 2 ** (depth + 1)
        blocks = [nf.flows.GlowBlock(in_channels, channels) for _ in range(steps)]
        flows.append([*blocks, nf.flows.Squeeze()])
        latent_channels = in_channels
        if depth < scales:
            merges.append(nf.flows.Merge())
            latent_channels //= 2
        bases.append(nf.distributions.GlowBase((latent_channels, height >> depth, width >> depth)))
    return nf.MultiscaleFlow(bases, flows, merges, class_cond=False)


def log_prob(model: nf.MultiscaleFlow, x: torch.Tensor) -> torch.Tensor:
    return model.log_prob(x, None)
