"""From the bytes of a message to its PUBACK; the label stream monitored."""
