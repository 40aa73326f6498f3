"""What runs where the user types: the files to send."""
