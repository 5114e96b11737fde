"""The learning core: arrays in, arrays out; nothing of MQTT, SQL, YAML or files."""
