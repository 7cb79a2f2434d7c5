"""What every package of the project shares: errors, whole files, the resize rule, entry points.

It imports the standard library only, and nothing of the project: the one part of `zoo` that `datasets` may import.
"""
