"""Where frame batches come from: a socket, files, a simulated detector. Bytes are read by wire/; nothing is judged here."""
