"""Run it forever: one worker thread between a source and a publisher, and what watches over them."""
