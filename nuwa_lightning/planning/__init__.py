"""The idea in pure Python: geometry, context pools, directions, and the schedule that follows from them."""
