"""Means, intervals, tests and findings: pure functions of numbers and of frames of runs.

Tables, figures and the report page may import it. It must not know where runs come from or how results are printed.
"""
