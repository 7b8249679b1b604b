"""A transformer as a splitting: a language model of characters, its limits in depth, its rates.

    python -m experiments.transformer               a character model, and text that it writes
    python -m experiments.transformer.limits        outputs and weights against depth
    python -m experiments.transformer.rates         the learning rate of the blocks against depth
    python -m experiments.transformer.verdicts      which transformers are ODEs
    python -m experiments.transformer.sphere        particles on the sphere

`text` holds the text, `model` the model and its training.
"""
