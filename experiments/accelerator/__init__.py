"""One program that makes the most of some minutes on an accelerator, and needs no network.

`runner` gives every stage a process, a share of the time and a deadline, and keeps the result.
`worker` runs the cases of a stage in such a process. `plan` lists the stages. Each stage has a
module with its cases. `arrays` writes the images that the program reads.
"""
