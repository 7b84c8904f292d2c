"""The most expensive results, computed once: candidates of target images, features and masks of references.

store          entries by the digest of everything that decides them
entries        their files: reading, writing, checking
maintenance    inventory, verification and pruning, for `ntt store`; which entries a run has used
"""
