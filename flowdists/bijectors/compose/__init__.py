"""Bijectors made of other bijectors, of this library or of others."""

from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.concatenated import Concatenated
from flowdists.bijectors.compose.conditioned import Conditioned
from flowdists.bijectors.compose.embedded import Embedded
from flowdists.bijectors.compose.foreign import Foreign
from flowdists.bijectors.compose.inverse import Inverse
from flowdists.bijectors.compose.repeat import Repeat
from flowdists.bijectors.compose.wrapper import Wrapper

__all__ = [
    "Chain",
    "Concatenated",
    "Conditioned",
    "Embedded",
    "Foreign",
    "Inverse",
    "Repeat",
    "Wrapper",
]
