"""Real data sets of the kinds that users have, and ordinary learners beside the node."""
