"""rmm_stream: a robust bad-pixel mask, estimated live. Nothing is re-exported, so that importing the client stays light."""

__version__ = "0.1.0"
