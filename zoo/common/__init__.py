"""Shared by all packages: errors, atomic file writes, the resize rule, entry points.

Imports only the standard library and nothing else of the project. It is the only part of `zoo` that `datasets` may
import.
"""
