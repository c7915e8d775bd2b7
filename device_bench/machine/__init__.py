"""What a machine is and which state it is in."""
