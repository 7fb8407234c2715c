"""The frozen dictionary of CPLearn: drawing codes, its loss, and products with it.

For half a million codes the loss is computed block by block. Nothing here knows a method, a trial or a training loop.
"""
