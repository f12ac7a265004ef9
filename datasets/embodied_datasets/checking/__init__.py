"""What can be wrong with recorded data, and how good they are."""
