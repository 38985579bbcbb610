"""All that a hit-finder imports: MaskClient. Costs pyzmq, msgpack and numpy; never numba, h5py or the configuration."""

from .core import ClientCore
from .mask_client import MaskClient, ask

__all__ = ["ClientCore", "MaskClient", "ask"]
