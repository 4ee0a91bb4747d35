"""What gin can configure, as settings, and how gin files become an experiment."""
