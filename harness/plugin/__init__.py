"""What the pytest plugin is made of. Only `options` and `failure` are imported at the start of a pytest session."""
