"""Files that leave the program: masks and pictures, always replaced whole. Knows nothing of streams or statistics."""
