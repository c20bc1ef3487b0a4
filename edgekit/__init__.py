"""edgekit: train, compress, verify and measure vision models for edge devices."""

__version__ = "0.1.0"
