"""A group of ranks, seen from the notebook's process."""
