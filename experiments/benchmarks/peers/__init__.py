"""Routes that need other packages, and do without neuralflow."""
