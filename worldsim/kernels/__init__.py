"""A CPU's fast way through what is many small operations on tensors: loops in C, over whole pictures.

Each has a slow way elsewhere that says the same in torch, which teaches, runs on other devices and stands in
where nothing could be compiled; tests hold the two together. What belongs to one world is worked out without
regard to its neighbours: frames are alike, bit for bit, in every batch and on any number of threads.
"""
