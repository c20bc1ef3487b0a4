"""The most accurate network that meets a latency budget measured on the device: `edgekit fit`."""
