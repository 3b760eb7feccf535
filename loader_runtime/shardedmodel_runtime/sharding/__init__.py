"""Which slice of which tensor goes to which rank: pure, from headers alone."""
