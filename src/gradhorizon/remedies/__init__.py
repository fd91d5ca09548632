"""What to do about a gradient that vanishes or explodes, and tasks to try it on."""
