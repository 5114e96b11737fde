"""One connection to the broker, and what waits to leave."""
