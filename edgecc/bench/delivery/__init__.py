"""Durability: what it costs beside plain paho."""
