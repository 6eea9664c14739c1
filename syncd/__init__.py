"""syncd: watch folders and keep a remote Files API equal to them."""

__version__ = "0.2.0"
