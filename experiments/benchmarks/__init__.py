"""Speed and memory as ratios in one process: interleaved runs, medians with their spread, a table and JSON."""
