"""Stage 2, the one truth: what the disk holds, what the service holds, and what to do next.

The only package that touches SQLite, and the only channel between the stages.
"""
