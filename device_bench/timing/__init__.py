"""Times files in turns, and says how far the times can be trusted."""
