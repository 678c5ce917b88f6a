"""What runs in the notebook for its user: magics, options, display."""
