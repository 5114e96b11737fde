"""What fits into the memory budget, and when to grow."""
