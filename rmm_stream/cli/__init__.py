"""What an operator types. One file per command; the only room that prints."""
