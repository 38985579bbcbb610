"""Between fit and publication: what may go out. Pure: no I/O, no clock, no threads, no log."""

from .policy import MaskPolicy

__all__ = ["MaskPolicy"]
