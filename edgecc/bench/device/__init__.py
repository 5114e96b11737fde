"""Memory, time and costs on this device."""
