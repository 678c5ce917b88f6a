"""What notebook and ranks both need. Imports neither side."""
