"""Small layers as one writes them for a first try, a module for each package that has to load."""
