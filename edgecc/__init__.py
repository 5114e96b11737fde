"""edgecc: learns on the device, for months, from what its owner streams to it over MQTT."""

__version__ = "0.1.0"
