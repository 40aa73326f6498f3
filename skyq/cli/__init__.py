"""What talks to a person: one file per verb; parse, call, render."""
