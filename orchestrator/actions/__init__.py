"""Actions: a module for each, with its declaration and its rule, and what is derived from them."""
