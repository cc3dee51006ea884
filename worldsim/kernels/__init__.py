"""Compiled CPU kernels: loops in C over whole images, for what is many small operations in torch.

The torch modules are the reference. They are used for training, on other devices, and where nothing was
compiled; tests hold the two against each other. A row's result does not depend on the rest of the batch:
frames are the same, bit for bit, in every batch and on any number of threads.
"""
