"""CPLearn's frozen dictionary: drawing its codes, the loss over them, the code nearest to an embedding.

For half a million codes the loss is computed block by block. Import `rademacher` and `nearest` from `signs`,
`dictionary_loss` from `loss`, the terms of losses over soft assignments from `terms`. Nothing here knows a method, a
trial or a training loop.
"""
