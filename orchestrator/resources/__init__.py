"""Resources: the kinds of things that jobs make and change, and what the engine asks of each."""
