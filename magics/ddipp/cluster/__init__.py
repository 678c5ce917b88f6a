"""Controllers and engines as processes of ours."""
