"""One program that makes the most of some minutes on an accelerator, and needs no network.

`plan` lists the stages, which `experiments.stages` runs. Each stage has a module with its cases.
`arrays` writes the images that the program reads.
"""
