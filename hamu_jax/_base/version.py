"""The version of this source code, which is known without an installed distribution."""

__version__ = "0.1.0"
