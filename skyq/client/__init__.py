"""What runs on the laptop: where a cluster is, and how to ask it."""
