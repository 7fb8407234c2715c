"""Tables and figures from the runs in the tracking store; `build` writes the files of a sweep or of a paper's table.

Anything here may be imported by the command line. This package may import `sweeps`; it must never import torch, Ray, or
the packages that train and execute, and importing it alone loads nothing heavy.
"""
