"""What runs in the process of a rank. Loads no torch by being imported."""
