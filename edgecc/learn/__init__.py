"""The learning core: tensors in, tensors out. It knows no MQTT, SQL, YAML or files."""
