"""Words planted in a genome, and models that are asked for them."""
