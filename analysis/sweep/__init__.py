"""Many runs from one command: a grid of settings, or a search for good ones."""
