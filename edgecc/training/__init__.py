"""The learner's process: grows, freezes, compiles and evaluates blocks."""
