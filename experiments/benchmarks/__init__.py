"""Speed and memory as ratios in one process, by interleaved runs.

Each benchmark reports medians with their spread, as a table and as JSON.
"""
